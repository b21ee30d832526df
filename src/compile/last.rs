//! What cargo's last build was like: what replay learns from it, and what is still true of a program that replay makes after it.
//! Never lives here: how a program is built.

use super::build::Built;
use super::output::Told;
use super::replay::{CargoBuild, Plan};
use crate::process::Setting;
use std::path::PathBuf;
use std::time::SystemTime;

#[derive(Debug, Default)]
pub struct Last {
    /// Until it is learnt from, or a newer build begins.
    pub unlearnt: Option<CargoBuild>,
    setting: Setting,
    whole_packages: Vec<PathBuf>,
    messages: Vec<Told>,
}

impl Last {
    /// Takes out of a build that began then what only replay needs of it.
    pub fn of(built: &mut Built, began: SystemTime) -> Last {
        Last {
            unlearnt: Some(CargoBuild {
                units: std::mem::take(&mut built.units),
                scripts: std::mem::take(&mut built.scripts),
                executable: built.executable.clone(),
                messages: built.messages.clone(),
                began,
            }),
            setting: built.setting.clone(),
            whole_packages: built.whole_packages.clone(),
            messages: built.messages.clone(),
        }
    }

    /// The program that replay has made, as cargo would tell of it.
    pub fn made_again(&self, plan: &Plan, executable: PathBuf) -> Built {
        Built {
            executable,
            setting: self.setting.clone(),
            whole_packages: self.whole_packages.clone(),
            fresh: false,
            messages: self.messages(plan, |_| true),
            units: Vec::new(),
            scripts: Vec::new(),
            compiled: Vec::new(),
        }
    }

    /// What was said when those crates were compiled, and of what is in no plan: cargo says it again with every build.
    pub fn messages(&self, plan: &Plan, which: impl Fn(usize) -> bool) -> Vec<Told> {
        let of_others = self.messages.iter().filter(|told| {
            let about = told.about.as_ref();
            about.is_none_or(|(package, target)| !plan.has(package, target))
        });
        let crates = plan.crates.iter().enumerate().filter(|(number, _)| which(*number));
        let own = crates.filter_map(|(_, one)| Some((one, one.record.as_ref()?))).flat_map(|(one, record)| {
            let about = (one.unit.package.clone(), one.unit.target.clone());
            record.messages.iter().map(move |words| Told { about: Some(about.clone()), words: words.clone() })
        });
        of_others.cloned().chain(own).collect()
    }
}
