//! In which order crates are compiled, and what may begin when: a pure core.
//! A library may begin when those it needs have written their metadata, an executable when they are whole; as cargo does it
//! (the cargo book, "Build pipelining").
//! Never lives here: processes.

/// The crates of one run, each by its number; those it needs have lower ones.
#[derive(Debug)]
pub struct Schedule {
    crates: Vec<Crate>,
    at_once: usize,
    stopped: bool,
}

#[derive(Debug)]
struct Crate {
    needs: Vec<usize>,
    links: bool,
    state: CrateState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CrateState {
    /// Not part of this run: it is as it should be.
    Fresh,
    Waiting,
    Compiling,
    /// Its metadata is there, its code is still being made.
    Metadata,
    Done,
    Failed,
}

impl Schedule {
    /// `crates`: for each, the numbers of those it needs directly, and whether it is linked. `wanted`: which are compiled.
    pub fn new(crates: impl IntoIterator<Item = (Vec<usize>, bool)>, wanted: &[usize], at_once: usize) -> Schedule {
        let crates = crates.into_iter().enumerate().map(|(number, (needs, links))| {
            let state = if wanted.contains(&number) { CrateState::Waiting } else { CrateState::Fresh };
            Crate { needs, links, state }
        });
        Schedule { crates: crates.collect(), at_once: at_once.max(1), stopped: false }
    }

    /// Those that begin now.
    #[must_use]
    pub fn begin(&mut self) -> Vec<usize> {
        let mut begun = Vec::new();
        while !self.stopped && self.compiling() < self.at_once {
            let Some(next) = (0..self.crates.len()).find(|number| self.may_begin(*number)) else { break };
            self.crates[next].state = CrateState::Compiling;
            begun.push(next);
        }
        begun
    }

    /// It has written its metadata.
    pub fn metadata(&mut self, number: usize) {
        if let Some(one) = self.crates.get_mut(number).filter(|one| one.state == CrateState::Compiling) {
            one.state = CrateState::Metadata;
        }
    }

    /// It has come to its end. After a failure nothing more begins.
    pub fn ended(&mut self, number: usize, success: bool) {
        if let Some(one) = self.crates.get_mut(number) {
            one.state = if success { CrateState::Done } else { CrateState::Failed };
        }
        self.stopped |= !success;
    }

    /// Nothing more begins.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Whether nothing is under way, and nothing will be.
    pub fn is_over(&self) -> bool {
        self.compiling() == 0 && (self.stopped || self.crates.iter().all(|one| one.state != CrateState::Waiting))
    }

    fn compiling(&self) -> usize {
        self.crates.iter().filter(|one| matches!(one.state, CrateState::Compiling | CrateState::Metadata)).count()
    }

    fn may_begin(&self, number: usize) -> bool {
        let one = &self.crates[number];
        let ready = |needed: &usize| match self.crates[*needed].state {
            CrateState::Fresh | CrateState::Done => true,
            CrateState::Metadata => !one.links,
            CrateState::Waiting | CrateState::Compiling | CrateState::Failed => false,
        };
        // Whoever links needs the code of all below, not only of those it names.
        let needs = if one.links { self.all_below(number) } else { one.needs.clone() };
        one.state == CrateState::Waiting && needs.iter().all(ready)
    }

    fn all_below(&self, number: usize) -> Vec<usize> {
        let mut below = vec![false; self.crates.len()];
        let mut waiting = self.crates[number].needs.clone();
        while let Some(next) = waiting.pop() {
            if !std::mem::replace(&mut below[next], true) {
                waiting.extend(&self.crates[next].needs);
            }
        }
        (0..below.len()).filter(|number| below[*number]).collect()
    }
}

/// Those crates, and all that need one of them, in their order.
pub fn with_dependents(needs: &[Vec<usize>], changed: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut affected = vec![false; needs.len()];
    for number in 0..needs.len() {
        affected[number] = changed(number) || needs[number].iter().any(|needed| affected[*needed]);
    }
    (0..needs.len()).filter(|number| affected[*number]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A leaf, two that need it, and a program that needs those two.
    fn diamond(wanted: &[usize], at_once: usize) -> Schedule {
        let crates = [(vec![], false), (vec![0], false), (vec![0], false), (vec![1, 2], true)];
        Schedule::new(crates, wanted, at_once)
    }

    #[test]
    fn metadata_lets_libraries_begin_and_the_end_lets_a_program() {
        let mut schedule = diamond(&[0, 1, 2, 3], 8);
        assert_eq!(schedule.begin(), [0]);
        schedule.metadata(0);
        assert_eq!(schedule.begin(), [1, 2]);
        schedule.metadata(1);
        schedule.metadata(2);
        schedule.ended(1, true);
        schedule.ended(2, true);
        assert_eq!(schedule.begin(), [0usize; 0], "the leaf's code is still being made");
        schedule.ended(0, true);
        assert_eq!(schedule.begin(), [3]);
        assert!(!schedule.is_over());
        schedule.ended(3, true);
        assert!(schedule.is_over());
    }

    #[test]
    fn what_is_fresh_is_not_compiled_again_and_no_more_than_so_many_at_once() {
        let mut schedule = diamond(&[1, 2, 3], 1);
        assert_eq!(schedule.begin(), [1]);
        schedule.metadata(1);
        assert_eq!(schedule.begin(), [0usize; 0]);
        schedule.ended(1, true);
        assert_eq!(schedule.begin(), [2]);
    }

    #[test]
    fn after_a_failure_nothing_begins_and_what_runs_comes_to_its_end() {
        let mut schedule = diamond(&[1, 2, 3], 2);
        assert_eq!(schedule.begin(), [1, 2]);
        schedule.ended(1, false);
        assert_eq!(schedule.begin(), [0usize; 0]);
        assert!(!schedule.is_over());
        schedule.ended(2, true);
        assert!(schedule.is_over());
    }

    #[test]
    fn dependents_of_dependents_are_affected() {
        let needs = [vec![], vec![0], vec![], vec![1], vec![2]];
        assert_eq!(with_dependents(&needs, |number| number == 0), [0, 1, 3]);
        assert_eq!(with_dependents(&needs, |number| number == 2), [2, 4]);
        assert_eq!(with_dependents(&needs, |_| false), Vec::<usize>::new());
    }

    proptest! {
        /// Whatever the graph and the order of events: each wanted crate is compiled once, never before what it needs, and the
        /// run comes to its end.
        #[test]
        fn all_that_is_wanted_is_compiled_in_order(
            graph in proptest::collection::vec((any::<u16>(), any::<bool>(), any::<bool>()), 1..9),
            at_once in 1..4usize,
            picks in proptest::collection::vec(any::<(u8, bool)>(), 64),
        ) {
            let needs = |number: usize| (0..number).filter(|below| graph[number].0 & (1 << below) != 0).collect::<Vec<_>>();
            let all: Vec<Vec<usize>> = (0..graph.len()).map(needs).collect();
            let wanted = with_dependents(&all, |number| graph[number].2);
            let crates = all.iter().cloned().zip(graph.iter().map(|one| one.1));
            let mut schedule = Schedule::new(crates, &wanted, at_once);
            let (mut running, mut done) = (Vec::new(), Vec::new());
            let mut picks = picks.into_iter().cycle();
            loop {
                for begun in schedule.begin() {
                    prop_assert!(wanted.contains(&begun) && !running.contains(&begun) && !done.contains(&begun));
                    running.push(begun);
                }
                prop_assert!(running.len() <= at_once);
                if running.is_empty() {
                    break;
                }
                let (pick, only_metadata) = picks.next().unwrap();
                let index = usize::from(pick) % running.len();
                if only_metadata {
                    schedule.metadata(running[index]);
                    continue;
                }
                let ended = running.remove(index);
                schedule.ended(ended, true);
                done.push(ended);
            }
            done.sort_unstable();
            prop_assert_eq!(done, wanted);
            prop_assert!(schedule.is_over());
        }
    }
}
