//! The unit files of the documentation: systemd has nothing to say against them, and the server upgrades itself in all their
//! confinement.

use crate::boot::{Init, Kind};
use crate::harness::ask;
use crate::load::{Load, Mix};
use crate::service::{Service, Type, UNIT, address, exec_start};

const SERVICE: &str = include_str!("../../docs/systemd/echo.service");
const NOTIFY_SERVICE: &str = include_str!("../../docs/systemd/echo-notify.service");
const SOCKET: &str = include_str!("../../docs/systemd/echo.socket");

/// The text with that line replaced, which it has once.
fn replaced(text: &str, line: &str, by: &str) -> String {
    let line = format!("\n{line}\n");
    assert_eq!(text.matches(&line).count(), 1, "{line} in {text}");
    text.replace(&line, &format!("\n{by}\n"))
}

fn run(init: Init, text: &str, kind: Type, environment: &[(&str, &str)]) {
    let http = address();
    let mut all = vec![("LISTEN", "http=127.0.0.1:1"), ("PROBATION_MS", "50"), ("STATE", "1")];
    all.extend(environment);
    init.write_unit(UNIT, &replaced(text, "ExecStart=/usr/local/bin/echo-server", exec_start(&all).trim_end()));
    init.write_unit("echo.socket", &replaced(SOCKET, "ListenStream=127.0.0.1:8080", &format!("ListenStream={http}")));
    let units = ["echo.service", "echo.socket"].map(|unit| format!("/run/systemd/system/{unit}"));
    let verified = init.command("systemd-analyze").arg("verify").args(&units).output().unwrap();
    assert!(verified.status.success() && verified.stdout.is_empty() && verified.stderr.is_empty(), "{verified:?}");

    let service = Service { init, kind };
    service.init.systemctl_ok(&["start", "echo.socket", UNIT]);
    let first = service.serving(1);
    let load = Load::start(http, Mix { fresh: 2, keep_alive: 2, slow: 0, slow_ms: 0 });
    load.wait_for(50);
    if environment.is_empty() {
        let second = service.upgrade(&first);
        let third = service.upgrade(&second);
        assert!(third.line.ends_with("trail=1;2;3;"), "{third:?}");
        service.leaves(&first, "Upgraded");
        service.leaves(&second, "Upgraded");
        assert_eq!(ask(http, "/").0, 3);
    } else {
        service.init.systemctl_ok(&["reload", UNIT]);
        let third = service.serving(3);
        assert_eq!(third.pid, first.pid);
        service.leaves(&service.serving(2), "Upgraded");
        service.becomes_main(&third);
    }
    load.wait_for(50);
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    service.init.systemctl_ok(&["stop", "echo.socket"]);
    service.stop();
}

#[test]
fn the_unit_files_of_the_documentation_hold() {
    for environment in [&[][..], &[("KEEP_PID", "1")]] {
        for (systemd, text, kind) in [
            (Kind::Machine, NOTIFY_SERVICE, Type::Notify),
            (Kind::Newer, NOTIFY_SERVICE, Type::Notify),
            (Kind::Newer, SERVICE, Type::NotifyReload),
        ] {
            if let Some(init) = Init::boot(systemd) {
                println!("{systemd:?} systemd, {kind:?} {environment:?}");
                run(init, text, kind, environment);
            }
        }
    }
}
