//! A socket that systemd holds: it starts the service, stays the same through upgrades, and keeps its queue while the service is
//! stopped.

use crate::harness::{Client, ask};
use crate::load::{Load, Mix};
use crate::service::{Service, address, everywhere};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

#[test]
fn a_socket_of_systemd_outlives_stops_as_well_as_upgrades() {
    everywhere(|init, kind| {
        let http = address();
        init.write_unit("echo.socket", &format!("[Socket]\nListenStream={http}\nFileDescriptorName=http\n"));
        // What is run when the server has ended, and what a stop waits for: until the test writes to it.
        let hold = init.folder().join("hold");
        mkfifo(&hold, Mode::from_bits_truncate(0o600)).unwrap();
        // An address that the server would choose is not the one that it gets.
        let environment = [("LISTEN", "http=127.0.0.1:1"), ("PROBATION_MS", "50")];
        let more = "ExecStopPost=/bin/sh -c 'read line </run/hotrun/hold'\n";
        let service = Service::write(init, kind, &environment, more);
        service.init.systemctl_ok(&["start", "echo.socket"]);
        assert_eq!(service.state(), "inactive");

        assert_eq!(ask(http, "/").0, 1);
        let mut serving = service.serving(1);
        assert_eq!((serving.http, service.main_pid()), (http, serving.pid));
        let cookie = ask(http, "/cookie").1;
        let load = Load::start(http, Mix { fresh: 4, keep_alive: 4, slow: 0, slow_ms: 0 });
        load.wait_for(50);
        for _ in 0..3 {
            let old = serving;
            serving = service.upgrade(&old);
            load.wait_for(100);
            service.leaves(&old, "Upgraded");
        }
        assert_eq!(ask(http, "/cookie"), (4, cookie.clone()));

        let before = load.tally().by_version["1"];
        let mut stop = service.begin_stop();
        // Opened when the other side is: there is no server now.
        let release = std::fs::File::options().write(true).open(&hold).unwrap();
        service.leaves(&serving, "Stopped");
        let mut waiting = Client::connect(http);
        waiting.send("/cookie");
        std::io::Write::write_all(&mut &release, b"go\n").unwrap();
        assert!(stop.wait().unwrap().success());
        // Whoever waits in the queue starts it again.
        assert_eq!(waiting.receive().1, cookie);
        let again = service.serving_again(1, 1);
        load.wait_for(100);
        let tally = load.stop();
        println!("{} requests, {tally:?}", tally.requests);
        assert_eq!(tally.lost(), 0, "{tally:#?}");
        assert!(tally.by_version["1"] > before);
        service.becomes_main(&again);
        service.is_content();
    });
}
