//! The flags as a layer: what was typed, checked; a refusal names the flag.
//! Never lives here: which flags there are and their help, which is `cli`'s.

use std::fmt;
use std::path::Path;

use super::layer::{Layer, Origin, some_time};
use super::{Address, Data, Listen, Target, address, duration, values};
use crate::cli::SessionArgs;
use crate::error::{Error, Result};

/// Paths and globs are meant from `directory`, where the user stands. Clap has refused empty paths already.
pub(super) fn layer(args: &SessionArgs, directory: &Path) -> Result<Layer> {
    let target = match (&args.bin, &args.example) {
        (Some(name), _) => Some(target("--bin", name, Target::Bin)?),
        (None, Some(name)) => Some(target("--example", name, Target::Example)?),
        (None, None) => None,
    };
    for arg in &args.args {
        values::no_nul(&arg.to_string_lossy()).map_err(by("-- ARGS"))?;
    }
    let ready_timeout = |text: &str| duration::parse(text).and_then(some_time);
    Ok(Layer {
        target,
        features: said(&args.features).map(features).transpose()?,
        profile: profile(args)?,
        replay: if args.no_replay { Some(false) } else { args.replay },
        debug: args.debug,
        args: said(&args.args).map(<[_]>::to_vec),
        env: args.env.iter().map(|pair| variable(pair)).collect::<Result<_>>()?,
        env_file: args.env_file.as_ref().map(|file| (directory.join(file), Origin::flag("--env-file"))),
        listen: said(&args.listen).map(|list| listen(list, directory)).transpose()?,
        watch: said(&args.watch)
            .map(|list| list.iter().map(|one| (directory.join(one), Origin::flag("--watch"))).collect()),
        ignore: all("--ignore", &args.ignore, |one| values::glob(one, directory))?,
        data: all("--data", &args.data, |one| data(one, directory))?,
        strategy: args.strategy,
        handoff: args.handoff.map(|way| (way, Origin::flag("--handoff"))),
        ready: one("--ready", &args.ready, values::ready)?,
        overlap: if args.no_overlap { Some(false) } else { args.overlap },
        ready_timeout: one("--ready-timeout", &args.ready_timeout, ready_timeout)?,
        probation: one("--probation", &args.probation, duration::parse)?,
        drain_timeout: one("--drain-timeout", &args.drain_timeout, duration::parse)?,
        drain_limit: one("--drain-limit", &args.drain_limit, duration::parse)?,
        kill_timeout: one("--kill-timeout", &args.kill_timeout, duration::parse)?,
    })
}

/// The part of the flags that only cargo understands, as far as cargo would blame hotrun for it.
pub(super) fn check_for_cargo(args: &SessionArgs) -> Result<()> {
    if let Some(jobs) = &args.jobs
        && jobs != "default"
        && jobs.parse::<i32>().unwrap_or(0) == 0
    {
        let why = format!("found {jobs:?}; write a number that is not zero, or \"default\"");
        return Err(Origin::flag("--jobs").refuse(why));
    }
    if let Some(triple) = &args.target {
        values::not_empty(triple).map_err(by("--target"))?;
    }
    for setting in &args.config {
        values::not_empty(setting).map_err(by("--config"))?;
    }
    Ok(())
}

/// A repeatable flag that was never given says nothing, rather than "none".
fn said<T>(list: &[T]) -> Option<&[T]> {
    if list.is_empty() { None } else { Some(list) }
}

fn one<T>(flag: &'static str, text: &Option<String>, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>> {
    text.as_deref().map(parse).transpose().map_err(by(flag))
}

fn all<T>(flag: &'static str, texts: &[String], parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<Vec<T>>> {
    said(texts).map(|texts| texts.iter().map(|text| parse(text)).collect()).transpose().map_err(by(flag))
}

fn by<E: fmt::Display>(flag: &'static str) -> impl Fn(E) -> Error {
    move |why| Origin::flag(flag).refuse(why)
}

fn target(flag: &'static str, name: &str, make: fn(String) -> Target) -> Result<(Target, Origin)> {
    values::not_empty(name).map_err(by(flag))?;
    Ok((make(name.to_owned()), Origin::flag(flag)))
}

fn features(list: &[String]) -> Result<Vec<String>> {
    let names: Vec<_> = list.iter().flat_map(|some| some.split([' ', ','])).filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        return Err(Origin::flag("--features").refuse("found no name; write one or leave the flag out"));
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

fn profile(args: &SessionArgs) -> Result<Option<String>> {
    if args.release {
        return Ok(Some("release".to_owned()));
    }
    if let Some(name) = &args.profile {
        values::not_empty(name).map_err(by("--profile"))?;
    }
    Ok(args.profile.clone())
}

fn variable(pair: &str) -> Result<(String, String)> {
    let refuse = by("--env");
    let Some((key, value)) = pair.split_once('=') else {
        return Err(refuse(format!("found {pair:?} without a value; write {:?}", format!("{pair}=VALUE"))));
    };
    values::variable(key, value).map_err(refuse)?;
    Ok((key.to_owned(), value.to_owned()))
}

fn listen(list: &[String], directory: &Path) -> Result<Vec<Listen>> {
    let refuse = by("--listen");
    let mut all = Vec::new();
    for (index, text) in list.iter().enumerate() {
        // No name holds a colon, so `unix:/a=b` is all address.
        let (name, address) = match text.split_once('=') {
            Some((name, address)) if !name.contains(':') => (name.to_owned(), address),
            _ => (address::name_of(index), text.as_str()),
        };
        address::check_name(&name).map_err(&refuse)?;
        let address: Address = address.parse().map_err(&refuse)?;
        all.push(Listen { name, address: address.resolved(directory).map_err(&refuse)? });
    }
    address::check_all(&all).map_err(|(_, why)| refuse(why))?;
    Ok(all)
}

fn data(pair: &str, directory: &Path) -> Result<Data, String> {
    // The last one: a pattern may hold `=`, an action never does.
    let Some((pattern, action)) = pair.rsplit_once('=') else {
        return Err(format!("found {pair:?} without an action; write \"{pair}=signal:HUP\""));
    };
    Ok(Data { glob: values::glob(pattern, directory)?, action: values::data_action(action)? })
}
