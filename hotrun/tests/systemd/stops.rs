//! `systemctl stop` finishes what has begun, in every generation that is there.

use crate::harness::{Client, eventually};
use crate::service::{Service, Serving, UNIT, everywhere};

/// A connection whose answer has begun, from that generation, and takes that long.
fn slow(serving: &Serving, ms: u32) -> Client {
    // It says that it serves just before the one before pauses.
    let mut client = eventually("its turn", || {
        let mut client = Client::connect(serving.http);
        (client.ask("/").0 == serving.generation).then_some(client)
    });
    client.send(&format!("/slow?ms={ms}"));
    client
}

/// The client waits for its answer, and goes.
fn is_whole(mut client: Client, generation: u32) {
    let (answered, text, _) = client.receive();
    assert_eq!((answered, text), (generation, "this took its time\n".repeat(10)));
}

/// Each client goes when it has its answer, the one that gets it first too: so the processes end one after the other.
fn both_are_whole((old, old_ms): (Client, u32), (new, new_ms): (Client, u32)) {
    let mut clients = [(old_ms, old, 1), (new_ms, new, 2)];
    clients.sort_by_key(|(ms, ..)| *ms);
    for (_, client, generation) in clients {
        is_whole(client, generation);
    }
}

/// A request that the process which systemd watches has begun, and one of the generation before, which ends later or earlier.
#[test]
fn a_stop_finishes_what_both_generations_have_begun() {
    for (old_ms, new_ms) in [(2500, 500), (500, 1500)] {
        everywhere(|init, kind| {
            println!("the old one takes {old_ms} ms, the new one {new_ms}");
            let (service, first) = Service::start(init, kind, &[], "");
            let old = slow(&first, old_ms);
            let second = service.upgrade(&first);
            let new = slow(&second, new_ms);
            let stop = service.begin_stop();
            both_are_whole((old, old_ms), (new, new_ms));
            service.has_stopped(stop);
            service.leaves(&first, "Upgraded");
            service.leaves(&second, "Stopped");
        });
    }
}

/// systemd asks both at once, while it still is open which of them is to stay.
#[test]
fn a_stop_on_probation_finishes_what_both_generations_have_begun() {
    for (old_ms, new_ms) in [(1500, 500), (500, 1500)] {
        everywhere(|init, kind| {
            println!("the old one takes {old_ms} ms, the new one {new_ms}");
            let (service, first) = Service::start(init, kind, &[("PROBATION_MS", "60000")], "");
            let old = slow(&first, old_ms);
            service.init.systemctl_ok(&["reload", "--no-block", UNIT]);
            let new = slow(&service.serving(2), new_ms);
            let stop = service.begin_stop();
            both_are_whole((old, old_ms), (new, new_ms));
            service.has_stopped(stop);
        });
    }
}

#[test]
fn a_stop_while_a_new_one_starts_is_a_stop_of_the_old_one() {
    everywhere(|init, kind| {
        let (service, first) = Service::start(init, kind, &[], "");
        let old = slow(&first, 500);
        service.script("hang");
        service.init.systemctl_ok(&["reload", "--no-block", UNIT]);
        service.has_successor();
        let stop = service.begin_stop();
        is_whole(old, 1);
        service.has_stopped(stop);
        service.leaves(&first, "Stopped");
    });
}
