//! Folders and files that stay where they are as long as the session lasts.
//! Never lives here: what is in them.

use crate::compile::places;
use crate::config::Config;
use cargo_metadata::Metadata;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct Layout {
    /// Of the workspace.
    pub root: PathBuf,
    pub target_dir: PathBuf,
    /// Where cargo keeps what it needs itself, which is mostly the same.
    pub build_dir: PathBuf,
    pub env_file: Option<PathBuf>,
}

impl Layout {
    pub fn new(config: &Config, metadata: &Metadata) -> Layout {
        let own = metadata.target_directory.clone().into_std_path_buf();
        let build_dir: PathBuf = metadata.build_directory.as_ref().unwrap_or(&metadata.target_directory).clone().into();
        let target_dir = config.build.target_dir.clone().unwrap_or_else(|| own.clone());
        let build_dir = if build_dir == own { target_dir.clone() } else { build_dir };
        let (root, env_file) = (metadata.workspace_root.clone().into(), config.program.env_file.clone());
        Layout { root, target_dir, build_dir, env_file }
    }

    /// By cargo.
    pub fn is_made(&self, path: &Path) -> bool {
        path.starts_with(&self.target_dir) || path.starts_with(&self.build_dir)
    }

    /// Relative where `build.dep-info-basedir` is set, which is then most likely the root.
    pub fn absolute(&self, inputs: Vec<PathBuf>) -> Vec<PathBuf> {
        inputs.into_iter().map(|path| places::plain(self.root.join(path))).collect()
    }
}
