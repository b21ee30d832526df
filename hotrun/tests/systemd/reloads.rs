//! Upgrades by `systemctl reload` under load, in both process-number modes: nothing is lost, and systemd follows.

use crate::load::{Load, Mix};
use crate::service::{Service, Type, everywhere};

const UPGRADES: u32 = 20;
/// Eight threads; the kept connections send 16 KiB with every fourth request.
const MIX: Mix = Mix { fresh: 4, keep_alive: 4, slow: 0, slow_ms: 0 };

#[test]
fn twenty_reloads_lose_nothing() {
    everywhere(|init, kind| {
        let (service, first) = Service::start(init, kind, &[], "");
        let load = Load::start(first.http, MIX);
        load.switched("1");
        load.wait_for(50);
        let began = crate::now();
        let mut generations = vec![first];
        for _ in 0..UPGRADES {
            let old = generations.last().unwrap();
            let new = service.upgrade(old);
            // Nobody else answers from here on.
            load.switched(&new.generation.to_string());
            // As long as it takes to have answered some of each kind.
            load.wait_for(100);
            generations.push(new);
        }
        let took = began.elapsed();
        let tally = load.stop();
        println!("{} requests, {UPGRADES} upgrades in {took:?}, {tally:?}", tally.requests);
        assert_eq!(tally.lost(), 0, "{tally:#?}");
        assert_eq!(tally.by_version.len(), generations.len());
        let last = generations.pop().unwrap();
        generations.iter().for_each(|generation| service.leaves(generation, "Upgraded"));
        assert_eq!((service.state().as_str(), service.main_pid()), ("active", last.pid));
        service.is_content();
        service.stop();
        service.leaves(&last, "Stopped");
    });
}

/// The number is that of the process which systemd started; each upgrade is two, to a process in between and back.
#[test]
fn a_process_that_keeps_its_number_is_the_main_one_for_good() {
    everywhere(|init, kind| {
        let (service, first) = Service::start(init, kind, &[("KEEP_PID", "1")], "");
        let load = Load::start(first.http, MIX);
        for upgrade in 0..5 {
            service.init.systemctl_ok(&["reload", crate::service::UNIT]);
            if kind == Type::NotifyReload {
                assert_eq!(service.state(), "active", "a reload returns when it is over");
            }
            let interim = service.serving(upgrade * 2 + 2);
            let next = service.serving(upgrade * 2 + 3);
            assert!(interim.pid != first.pid && next.pid == first.pid, "{interim:?} {next:?}");
            service.leaves(&interim, "Upgraded");
            service.becomes_active();
            assert_eq!(service.main_pid(), first.pid);
            load.wait_for(100);
        }
        let tally = load.stop();
        println!("{} requests, {tally:?}", tally.requests);
        assert_eq!(tally.lost(), 0, "{tally:#?}");
        service.is_content();
        service.stop();
    });
}
