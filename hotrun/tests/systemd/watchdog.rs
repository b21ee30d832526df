//! Signs of life: they go on through an upgrade, and systemd misses those of the new process.

use crate::load::{Load, Mix};
use crate::service::{AT_ONCE, Service, UNIT, everywhere};
use nix::sys::signal::{Signal, kill};

#[test]
fn signs_of_life_go_on_through_upgrades_and_are_missed_from_the_new_process() {
    everywhere(|init, kind| {
        // systemd itself must not be kept waiting, either.
        assert!(init.command("chrt").args(["--rr", "--pid", "1", "1"]).status().unwrap().success());
        let more = "WatchdogSec=1s\nRestart=on-failure\n".to_owned() + AT_ONCE;
        // On probation for longer than systemd waits.
        let (service, first) = Service::start(init, kind, &[("PROBATION_MS", "1500")], &more);
        let load = Load::start(first.http, Mix { fresh: 2, keep_alive: 2, slow: 0, slow_ms: 0 });
        let second = service.upgrade(&first);
        let third = service.upgrade(&second);
        // Some seconds, at 5 ms a request of each thread.
        load.wait_for(1000);
        assert_eq!(load.stop().lost(), 0);
        service.becomes_main(&third);
        service.is_content();

        kill(service.main_process(), Signal::SIGSTOP).unwrap();
        service.init.log.wait_for(&["Watchdog timeout (limit 1s)!"]);
        let again = service.serving_again(1, 1);
        service.becomes_main(&again);
        assert_eq!(service.init.show(UNIT, "NRestarts"), "1");
    });
}

#[test]
fn a_server_that_is_not_well_is_started_again() {
    everywhere(|init, kind| {
        let (service, first) =
            Service::start(init, kind, &[("SICK_AFTER", "2")], "WatchdogSec=1s\nRestart=on-failure\n");
        service.init.output.wait_for(&["sick"]);
        service.init.log.wait_for(&["Watchdog timeout (limit 1s)!"]);
        service.init.log.wait_for(&["Main process exited, code=killed, status=6/ABRT"]);
        assert!(service.serving_again(1, 1).pid != first.pid);
    });
}
