//! Upgrades that fail, before and after the new process is the main one.

use crate::harness::{Client, ask};
use crate::load::{Load, Mix};
use crate::service::{AT_ONCE, Service, UNIT, everywhere};
use nix::sys::signal::{Signal, kill};

const MIX: Mix = Mix { fresh: 2, keep_alive: 2, slow: 0, slow_ms: 0 };

/// The unit is as it was before, and the next upgrade works.
#[test]
fn an_upgrade_that_fails_leaves_the_unit_as_it_was() {
    // It ends at once, never is ready, ends on probation.
    for script in ["fail", "hang", "crash"] {
        everywhere(|init, kind| {
            let patience = [("READY_MS", "1000"), ("PROBATION_MS", "2000")];
            let (service, first) = Service::start(init, kind, &patience, AT_ONCE);
            let load = Load::start(first.http, MIX);
            service.script(script);
            let began = crate::now();
            let reload = service.reload();
            println!("{script}: systemctl reload ends with {} after {:?}", reload.status, began.elapsed());
            println!("{}", service.init.output.wait_for(&["failed "]));
            service.becomes_active();
            assert_eq!(service.main_pid(), first.pid);
            assert_eq!(ask(first.http, "/").0, 1);
            load.wait_for(50);

            service.script("");
            let generation = service.upgrade(&first);
            load.wait_for(50);
            let tally = load.stop();
            println!("{} requests, {tally:?}", tally.requests);
            assert_eq!(generation.generation, 2);
            // What waited in the queue of a process that crashed was accepted by it, at worst.
            assert!(script == "crash" || tally.lost() == 0, "{tally:#?}");
            service.leaves(&first, "Upgraded");
            service.stop();
        });
    }
}

/// systemd is the parent of every generation: it hears of the end of the new one at once.
#[test]
fn a_new_main_process_that_is_killed_is_started_again() {
    everywhere(|init, kind| {
        let (service, first) = Service::start(init, kind, &[], "Restart=on-failure\n");
        let second = service.upgrade(&first);
        service.leaves(&first, "Upgraded");
        let began = crate::now();
        kill(service.main_process(), Signal::SIGKILL).unwrap();
        service.init.log.wait_for(&["Main process exited, code=killed, status=9/KILL"]);
        println!("noticed after {:?}", began.elapsed());
        let again = service.serving_again(1, 1);
        println!("serves again after {:?}", began.elapsed());
        assert!(again.pid != second.pid);
        service.becomes_main(&again);
        assert_eq!(ask(again.http, "/").0, 1);
        assert_eq!(service.init.show(UNIT, "NRestarts"), "1");
    });
}

/// Before it starts the service again, systemd stops what is left of it; that finishes what it has begun.
#[test]
fn a_start_after_a_crash_waits_for_the_generations_that_finish_their_connections() {
    everywhere(|init, kind| {
        let (service, first) = Service::start(init, kind, &[], "Restart=on-failure\n");
        let mut kept = Client::connect(first.http);
        assert_eq!(kept.ask("/").0, 1);
        kept.send("/slow?ms=1500");
        service.upgrade(&first);
        let began = crate::now();
        kill(service.main_process(), Signal::SIGKILL).unwrap();
        service.init.log.wait_for(&["Main process exited, code=killed, status=9/KILL"]);
        println!("noticed after {:?}", began.elapsed());
        let (generation, text, _) = kept.receive();
        assert_eq!((generation, text), (1, "this took its time\n".repeat(10)));
        drop(kept);
        service.leaves(&first, "Upgraded");
        let again = service.serving_again(1, 1);
        println!("serves again after {:?}", began.elapsed());
        service.becomes_main(&again);
    });
}
