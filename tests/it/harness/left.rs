//! Where a session leaves something, and what it has left.

use super::processes;
use std::path::{Path, PathBuf};

/// Where a session tells that it runs, so that others find it.
pub fn listed(session: u32) -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.unwrap_or_else(|| std::env::home_dir().unwrap().join(".cargo"));
    let folder = home.join("hotrun/sessions");
    let mut files = std::fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let is_its = |file: &PathBuf| file.file_name().unwrap().to_string_lossy().starts_with(&format!("{session}-"));
    files.find(is_its).unwrap_or_else(|| folder.join(format!("{session}-none")))
}

/// Where a session keeps its programs, below the folder that it builds to.
pub fn run_folder(target: &Path, session: u32) -> PathBuf {
    let all = target.join("hotrun/run");
    let mut folders = std::fs::read_dir(&all).into_iter().flatten().map(|entry| entry.unwrap().path());
    let is_its = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&format!("{session}-"));
    folders.find(is_its).unwrap_or_else(|| all.join(format!("{session}-none")))
}

/// What a session with that temporary folder has left: processes and files.
pub fn leavings(temporary: &Path) -> Vec<String> {
    let command_line = |pid: u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let processes = processes(temporary).into_iter();
    let mut left: Vec<String> =
        processes.map(|pid| format!("{pid}: {}", String::from_utf8_lossy(&command_line(pid)))).collect();
    left.extend(std::fs::read_dir(temporary).unwrap().map(|entry| entry.unwrap().path().display().to_string()));
    left
}
