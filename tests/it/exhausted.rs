//! No process and no thread can be started any more (RLIMIT_NPROC): that is told, and what serves goes on serving.

use crate::harness::plain::{PLAIN, Plain, project};
use crate::harness::refuse::with_rights;
use crate::harness::server::server;
use crate::harness::{target_folder, version};
use std::fs;
use std::process::{Command, Stdio};

/// A user that nobody else here is. Root is bound by no such limit.
const USER: u32 = 61_729;

/// Run by that user, who may write into the project, and nothing else that an ordinary one may not.
fn as_ordinary_user(command: &mut Command) {
    let (user, rights) = (USER.to_string(), "-all,+dac_override,+dac_read_search,+fowner");
    let who = ["--reuid", &user, "--regid", &user, "--clear-groups", "--securebits=+no_setuid_fixup"];
    with_rights(command, &[&who[..], &["--inh-caps", rights, "--ambient-caps", rights]].concat());
    // What it makes there is nobody else's.
    command.env("CARGO_HOME", target_folder().with_file_name("exhausted-home"));
}

/// The processes of the user, and how many threads they have.
fn tasks() -> (Vec<String>, u64) {
    let mut tasks = (Vec::new(), 0);
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next();
        if value("Uid:") == Some(&USER.to_string()) {
            tasks.0.extend(value("Pid:").map(str::to_owned));
            tasks.1 += value("Threads:").map_or(1, |threads| threads.parse().unwrap());
        }
    }
    tasks
}

/// The user may have that many tasks more than there are. With `None`, as many as wanted.
fn leave_free(free: Option<u64>) {
    let (processes, count) = tasks();
    let limit = free.map_or("all".to_owned(), |free| (count + free).to_string());
    // One may have ended meanwhile. Those of another user are nobody's to limit, not even root's in a container.
    let script = "[ $1 = all ] && limit=$(ulimit -Hu) || limit=$1; shift; for pid; do prlimit --pid $pid --nproc=$limit: || [ ! -d /proc/$pid ] || exit 1; done";
    let mut command = Command::new("setpriv");
    let user = USER.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "bash", "-c", script, "bash", &limit]);
    assert!(command.args(processes).stderr(Stdio::null()).status().unwrap().success());
}

#[test]
fn without_a_free_task_the_good_server_goes_on_and_the_next_save_works() {
    let mut plain = Plain::begin_with(project("exhausted", ""), &[], as_ordinary_user);
    assert_eq!(plain.next(), "1");
    plain.session.see("replay", |event| event["event"] == "replay-ready");
    let mut failed = 0;
    for free in 0..12 {
        let serves = version(plain.address);
        leave_free(Some(free));
        plain.project.write_by_rename("src/main.rs", &server(PLAIN, &format!("with {free}"), &[]));
        let end = plain.session.wait("the end of it", |event| {
            let over = ["build-failed", "start-failed", "not-kept", "serving"];
            over.iter().any(|name| event["event"] == *name)
        });
        if end["event"] == "serving" {
            plain.generation += 1;
        } else {
            failed += 1;
            assert_eq!(version(plain.address), serves, "{free}: {end}");
        }
        leave_free(None);
        let good = format!("after {free}");
        plain.project.write_by_rename("src/main.rs", &server(PLAIN, &good, &[]));
        let served = plain
            .session
            .wait("the next one", |event| plain_generation(event).is_some_and(|_| version(plain.address) == good));
        plain.generation = plain_generation(&served).unwrap();
        let before = plain.generation - 1;
        plain
            .session
            .see("the end of the old one", |event| event["event"] == "drained" && event["generation"] == before);
    }
    assert!(failed >= 2, "there were tasks enough: {failed}");
    let why = |event: &&serde_json::Value| event.to_string().contains("ulimit -u");
    assert!(plain.session.log.iter().any(|event| why(&event)), "what to do is said");
    assert!(!plain.session.stderr().contains("src/process"), "{}", plain.session.stderr());
}

fn plain_generation(event: &serde_json::Value) -> Option<u64> {
    (event["event"] == "serving").then(|| event["generation"].as_u64()).flatten()
}
