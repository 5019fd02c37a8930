//! Before the first step, ranks make sure that they are about to do the same.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::best_metric::validation_labels;
use super::prepare::Prepared;
use crate::config::{Config, KEYS, Key, MayDiffer};
use crate::digest::ContentHash;
use crate::dist::Collective;
use crate::error::{Problem, Problems};
use crate::model::Params;

/// Compares program, config, data, labels and weights of all ranks with the first's.
///
/// # Errors
/// [`Problems`] with every difference of the first rank that has one.
pub(super) fn agree(world: &dyn Collective, config: &Config, prepared: &Prepared) -> Result<()> {
    if world.size() == 1 {
        return Ok(());
    }
    let mut own = BTreeMap::from([
        ("the program's version".to_string(), program()),
        ("the pairs' fingerprint".into(), prepared.pairs_fingerprint.clone()),
        ("the labels' and prompts' fingerprint".into(), of_labels(config, prepared)),
        ("the weights' fingerprint".into(), of_weights(&prepared.params)?),
        ("the type of products".into(), prepared.products.kind().into()),
    ]);
    // Paths may differ: what they lead to is compared.
    let compared = |key: &&Key| key.may_differ != MayDiffer::BetweenRanks && !key.leads_somewhere();
    for key in KEYS.iter().filter(compared) {
        let value = config.value(key.name).map_or("not set".into(), ToString::to_string);
        own.insert(key.name.into(), value);
    }
    let all = world.gather_bytes(&serde_json::to_vec(&own)?)?;
    let read =
        |bytes: &Vec<u8>| serde_json::from_slice::<BTreeMap<String, String>>(bytes).context("another rank's greeting");
    let all = all.iter().map(read).collect::<Result<Vec<_>>>()?;
    for (rank, other) in all.iter().enumerate() {
        let names: std::collections::BTreeSet<&String> = all[0].keys().chain(other.keys()).collect();
        let value = |of: &BTreeMap<String, String>, name: &String| of.get(name).cloned().unwrap_or("unknown".into());
        let differs = |name: &&&String| value(&all[0], name) != value(other, name);
        let line = |name: &&String| {
            Problem(format!(
                "ranks disagree: {name} is {} on {} and {} on {}; start all of them with the same program, config, \
                 data and model",
                value(&all[0], name),
                world.name(0),
                value(other, name),
                world.name(rank)
            ))
        };
        let problems: Vec<Problem> = names.iter().filter(differs).map(line).collect();
        if !problems.is_empty() {
            return Err(Problems(problems).into());
        }
    }
    Ok(())
}

fn program() -> String {
    let revision = option_env!("REPORTCLIP_REVISION").unwrap_or("unknown revision");
    format!("{} ({revision})", env!("CARGO_PKG_VERSION"))
}

fn of_weights(params: &Params) -> Result<String> {
    let mut print = ContentHash::default();
    for param in params.iter() {
        print.field(&param.spec.name);
        print.numbers(&param.var)?;
    }
    Ok(short(print))
}

/// Of all that training and validation take from labels and prompts: ranks that differ in it would wait for each other.
fn of_labels(config: &Config, prepared: &Prepared) -> String {
    let prompts = prepared.prompts.as_ref();
    let of_validation = validation_labels(&config.loss, &prepared.val, prompts);
    let targets = prepared.supervision.targets_of(&config.loss, &prepared.val, of_validation.as_ref().ok());
    let mut print = ContentHash::default();
    print.field(format!("{:?}", prepared.supervision));
    print.field(format!("{prompts:?}"));
    // Why there are none may name a path, and paths may differ between ranks.
    print.field(format!("{:?}", of_validation.ok()));
    print.field(format!("{targets:?}"));
    print.field(prepared.best_metric.word());
    short(print)
}

/// Enough to tell two apart, and short enough to be read.
fn short(print: ContentHash) -> String {
    print.hex()[..16].to_string()
}
