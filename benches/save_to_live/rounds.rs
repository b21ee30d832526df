//! The rounds on one project: who has its turn, and what is noted of it.

use crate::contender::{Contender, hotrun};
use crate::events::Parts;
use crate::house::{self, House};
use crate::kind::Kind;
use crate::load::{Load, Mix};
use crate::peers::Peers;
use crate::project::{Project, Shape, free_address};
use crate::table::{Idle, Row};
use crate::wait::{now, pause};
use crate::{Result, table};
use std::time::Duration;

const MIX: Mix = Mix { fresh: 1, keep_alive: 1, slow: 0, slow_ms: 0 };
/// Before the edit and after the answer: each kind of client has had its requests, on both sides of the switch.
const REQUESTS: u64 = 20;
const IDLE: Duration = Duration::from_secs(10);

/// Prints a table for each place.
pub fn measure(
    house: &House,
    peers: &Peers,
    shape: Shape,
    places: &[usize],
    kinds: &[Kind],
    rounds: u32,
) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("save-to-live-").tempdir()?;
    eprintln!("{}: building", shape.title(places[0]));
    let seed = Project::new(house, shape, folder.path().join("seed"))?;
    // Declared after the folder: all of them are gone before it is.
    let mut field = Field { house, contenders: Vec::new() };
    for (nth, kind) in kinds.iter().enumerate() {
        let project = seed.copy(house, folder.path().join(format!("{nth}-{kind:?}").to_lowercase()))?;
        let taken: Vec<_> = field.contenders.iter().map(|contender| contender.address).collect();
        // One that cannot be started on this machine is said, and the others go on.
        match Contender::start(house, peers, *kind, project, free_address(&taken)?) {
            Ok(contender) => field.contenders.push(contender),
            Err(error) if kind.is_peer() => eprintln!("left out: {error}"),
            Err(error) => return Err(error),
        }
        house.settle()?;
    }
    let mut tables: Vec<Vec<Row>> =
        places.iter().map(|_| field.contenders.iter().map(|contender| Row::new(contender.kind)).collect()).collect();
    for round in 0..=rounds {
        eprint!("round {round} of {rounds}:");
        for (rows, place) in tables.iter_mut().zip(places) {
            field.round(round, *place, rows)?;
        }
        eprintln!();
    }
    let idle = field.idle()?;
    for (rows, place) in tables.iter().zip(places) {
        print!("{}", table::table(shape.title(*place), rows));
    }
    print!("{}", table::idling(&idle));
    Ok(())
}

struct Field<'a> {
    house: &'a House,
    contenders: Vec<Contender<'a>>,
}

impl Field<'_> {
    /// Each has its turn; the first of this round was the second of the one before. Round 0 is not counted.
    fn round(&mut self, round: u32, place: usize, rows: &mut [Row]) -> Result<()> {
        let count = self.contenders.len();
        for nth in 0..count {
            let which = (round as usize + nth) % count;
            let row = &mut rows[which];
            if row.fault.is_some() {
                continue;
            }
            let mut unused = Row::new(row.kind);
            let into = if round == 0 { &mut unused } else { &mut *row };
            if let Err(error) = self.turn(which, place, into) {
                if !row.kind.is_peer() {
                    return Err(error);
                }
                eprintln!("\nleft out from here on: {error}");
                row.fault = Some(error.to_string());
            }
        }
        Ok(())
    }

    fn turn(&mut self, which: usize, place: usize, row: &mut Row) -> Result<()> {
        let contender = &mut self.contenders[which];
        let is_hotrun = contender.kind == Kind::Hotrun;
        let said = if is_hotrun { contender.events(0)?.1 } else { 0 };
        let before = self.house.cpu();
        let load = Load::start(contender.address, MIX);
        load.wait_for(REQUESTS);
        let took = contender.edit(place)?.as_secs_f64() * 1000.0;
        load.wait_for(REQUESTS);
        let tally = load.stop();
        self.house.settle()?;
        eprint!(" {} {took:.0}", contender.kind.name());
        row.times.push(took);
        row.cpu += self.house.cpu().saturating_sub(before);
        row.requests += tally.requests;
        row.lost += tally.lost();
        row.slowest = row.slowest.max(tally.latency_worst);
        if is_hotrun {
            row.parts.push(Parts::of_last_save(&contender.events(said)?.0)?);
        }
        Ok(())
    }

    /// What the command costs while nothing happens at all: its own processes, its guard among them.
    fn idle(&self) -> Result<Idle> {
        let own = house::running(&hotrun()?);
        let hotrun = self.contenders.iter().find(|contender| contender.kind == Kind::Hotrun);
        // Cargo becomes its subcommand (exec), so the number has stayed the same.
        let command = hotrun.and_then(Contender::pid).filter(|pid| own.contains(pid));
        let command = command.ok_or("the program that runs is not the one that was built for this")?;
        let (began, before) = (now(), house::nanos(&own));
        pause(IDLE)?;
        let used = house::nanos(&own).saturating_sub(before);
        let percent = used as f64 / began.elapsed().as_nanos() as f64 * 100.0;
        let memory = |field| house::memory(command, field).unwrap_or(0);
        Ok(Idle { percent, rss_kb: memory("VmRSS"), anon_kb: memory("RssAnon") })
    }
}

impl Drop for Field<'_> {
    fn drop(&mut self) {
        self.contenders.clear();
        self.house.clear();
    }
}
