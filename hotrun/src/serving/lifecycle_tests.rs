//! Phases, who may accept, and who is woken when.

use super::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn readable(event: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::new(event, PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
}

#[test]
fn the_phases_go_forward_and_only_a_pause_goes_back() {
    let state = Lifecycle::new().unwrap();
    let gate = ListenerGate::default();
    assert!(state.admit(&gate).is_some() && !readable(state.stop_event(&gate)));
    state.pause(&[]);
    state.pause(&[]);
    assert!(state.admit(&gate).is_none() && readable(state.stop_event(&gate)));
    state.resume(&[]);
    assert!(state.admit(&gate).is_some() && !readable(state.stop_event(&gate)));
    assert_eq!(state.phase(), Phase::Serving);
    state.stop_accepting(Why::Upgraded, &[]);
    state.stop_accepting(Why::Stopped, &[]);
    state.resume(&[]);
    assert!(state.admit(&gate).is_none() && readable(state.stop_event(&gate)) && !readable(state.drain_event()));
    state.shut();
    state.drain();
    assert!(readable(state.drain_event()));
    assert_eq!(state.wait_drained(), ExitReason::Upgraded, "the first reason stays");
}

#[test]
fn an_exempt_listener_goes_on_until_the_gate_is_shut() {
    let state = Lifecycle::new().unwrap();
    let (kept, left) = (ListenerGate::default(), ListenerGate::default());
    state.pause(&[&left]);
    assert!(state.admit(&left).is_some() && state.admit(&kept).is_none());
    assert_eq!(state.wait_while_paused(&left), Accepting::Open);
    state.no_longer_exempt(&left);
    assert!(state.admit(&left).is_none());
    state.stop_accepting(Why::Upgraded, &[&left]);
    assert!(state.admit(&left).is_some() && !readable(state.stop_event(&left)));
    assert_eq!(state.wait_while_paused(&kept), Accepting::Ended);
    assert!(!state.is_finished());
    state.shut();
    assert!(state.admit(&left).is_none() && readable(state.stop_event(&left)));
    assert_eq!(state.wait_while_paused(&left), Accepting::Ended);
}

#[test]
fn drained_waits_for_the_last_guard_and_for_whatever_holds_the_process() {
    let state = Lifecycle::new().unwrap();
    let guard = state.guard(None);
    state.hold(true);
    state.stop_accepting(Why::Stopped, &[]);
    state.shut();
    let waiting = std::thread::spawn({
        let state = Arc::clone(&state);
        move || state.wait_drained()
    });
    assert_eq!(state.live(), 1);
    drop(guard);
    state.wait(|inner| inner.awaited.then_some(()));
    assert!(state.is_finished() && !waiting.is_finished());
    state.hold(false);
    assert_eq!(waiting.join().unwrap(), ExitReason::Stopped);
    assert_eq!(state.live(), 0);
}

#[test]
fn tasks_that_have_ended_leave_nothing_behind() {
    let state = Lifecycle::new().unwrap();
    let context = Context::from_waker(Waker::noop());
    for _ in 0..3 {
        let waiter = state.waiter();
        assert!(waiter.poll_phase(&context, Phase::Draining).is_pending());
        assert!(waiter.poll_drained(&context).is_pending());
        assert_eq!(state.lock().wakers.len(), 1);
    }
    assert!(state.lock().wakers.is_empty());
}

#[test]
fn the_deadline_shuts_down_what_is_left_and_counts_it() {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    let (mut ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let state = Lifecycle::new().unwrap();
    let _guard = state.guard(Some(ours.as_raw_fd()));
    state.stop_accepting(Why::Upgraded, &[]);
    state.force(false);
    assert_eq!(ours.read(&mut [0; 1]).unwrap(), 0, "a reader comes back");
    assert_eq!(state.wait_drained(), ExitReason::DeadlineExceeded { live: 1 });
}
