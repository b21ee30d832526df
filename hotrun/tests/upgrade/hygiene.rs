//! Points 5 and 11 of the plan: what a generation's own children inherit, while upgrades come and go: nothing of ours.

use crate::harness::Service;

/// They report whatever socket, variable or blocked signal they find.
#[test]
fn children_that_are_started_during_upgrades_inherit_nothing() {
    for keep_pid in [false, true] {
        let (mut service, mut serving) = Service::start(|command, _| {
            command.env("CHILDREN", "1").env("PROBATION_MS", "0").env("LINGER_MS", "20");
            if keep_pid {
                command.env("KEEP_PID", "1");
            }
        });
        for _ in 0..25 {
            serving.signal(hotrun::Signal::SIGUSR2);
            serving = service.serving();
            if keep_pid {
                serving = service.serving();
            }
        }
        // Stopped before it is confirmed, it would leave the service to the one before.
        let last = if keep_pid { serving } else { service.upgrade(&serving) };
        let rest = service.stop(&last);
        assert!(!rest.iter().any(|line| line.starts_with("leaked ")), "{rest:#?}");
    }
}
