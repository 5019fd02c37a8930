//! Checkpoints of a run: weights, moments and state, written aside and renamed, so that a kill leaves a whole one.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};

use super::records::Progress;
use super::state::State;
use crate::data::Neighbours;
use crate::dist::Collective;
use crate::fs::{open_plain, read_up_to, replace_folder};
use crate::json;
use crate::model::checkpoint::{check_checksums, save_safetensors, write_checksums};
use crate::ops::squared_sum;
use crate::track::RunFolder;

/// Weights.
const WEIGHTS_FILE: &str = "model.safetensors";

/// Averaged weights, where a run keeps them: what was evaluated.
const EMA_FILE: &str = "ema.safetensors";

/// The hardest negatives of each training row, where they are mined.
const NEIGHBOURS_FILE: &str = "neighbours.safetensors";

/// Where the run stands.
const STATE_FILE: &str = "state.json";

/// How many of the last checkpoints stay, beside the best.
const KEPT: usize = 2;

/// Writes the checkpoint of the step that `state` stands at, and removes all but the last ones.
pub(super) fn save(run: &RunFolder, state: &State) -> Result<()> {
    let State { params, optimizer, ema, neighbours, progress } = state;
    for param in params.iter() {
        let finite = squared_sum(&param.var.as_detached_tensor())?.is_finite();
        ensure!(finite, "weight {} is not finite; not saved, the checkpoint before is whole", param.spec.name);
    }
    replace_folder(&run.checkpoint_path(progress.step), |folder| {
        save_safetensors(&folder.join(WEIGHTS_FILE), &params.tensors())?;
        save_safetensors(&folder.join("optimizer.safetensors"), &optimizer.state())?;
        ema.as_ref().map_or(Ok(()), |ema| save_safetensors(&folder.join(EMA_FILE), &ema.state()))?;
        neighbours.as_ref().map_or(Ok(()), |n| save_neighbours(&folder.join(NEIGHBOURS_FILE), n))?;
        fs::write(folder.join(STATE_FILE), serde_json::to_vec_pretty(progress)?)?;
        write_checksums(folder)
    })?;
    let best = progress.best.as_ref().map(|best| best.step);
    let all = run.list_checkpoints();
    let old = all[..all.len().saturating_sub(KEPT)].iter().filter(|(step, _)| Some(*step) != best);
    for (_, old) in old {
        fs::remove_dir_all(old).with_context(|| format!("removing {}", old.display()))?;
    }
    Ok(())
}

/// Removes the checkpoints past `step`: a run that goes on from an earlier one makes them anew, and until then `latest`
/// must not mean them.
pub(super) fn forget_after(run: &RunFolder, step: u64) -> Result<()> {
    for (_, later) in run.list_checkpoints().into_iter().filter(|(s, _)| *s > step) {
        fs::remove_dir_all(&later).with_context(|| format!("removing {}", later.display()))?;
    }
    Ok(())
}

/// The weights that were evaluated when the checkpoint of `step` was written, by name; `None` where it is gone.
pub(super) fn evaluated(run: &RunFolder, step: u64, averaged: bool) -> Result<Option<Vec<(String, Tensor)>>> {
    let file = if averaged { EMA_FILE } else { WEIGHTS_FILE };
    let folder = run.checkpoint_path(step);
    let path = folder.join(file);
    if !path.is_file() {
        return Ok(None);
    }
    let read = || -> Result<HashMap<String, Tensor>> {
        check_checksums(&folder)?;
        tensors_of(&path).with_context(|| path.display().to_string())
    };
    let tensors = read().with_context(|| {
        format!(
            "the checkpoint of the best step, {step}, is damaged; remove {} to search for the best anew",
            folder.display()
        )
    })?;
    let mut weights: Vec<_> = tensors.into_iter().collect();
    weights.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Some(weights))
}

/// Puts what a checkpoint holds into `state`. The first rank alone is given the folder and tells the others.
pub(super) fn restore(world: &dyn Collective, folder: Option<&Path>, state: &mut State) -> Result<()> {
    let progress: Progress = world.from_first(|| {
        let folder = folder.context("a checkpoint of nowhere")?;
        read_progress(folder).with_context(|| damaged(folder))
    })?;
    let weights = of_file(world, folder, WEIGHTS_FILE, state.params.tensors())?;
    for param in state.params.iter() {
        param.var.set(&weights[&param.spec.name])?;
    }
    let moments = of_file(world, folder, "optimizer.safetensors", state.optimizer.state())?;
    state.optimizer.restore(&moments, progress.step)?;
    if let Some(ema) = &state.ema {
        ema.restore(&of_file(world, folder, EMA_FILE, ema.state())?)?;
    }
    if state.neighbours.is_some() {
        let read = || read_neighbours(&folder.context("a checkpoint of nowhere")?.join(NEIGHBOURS_FILE));
        let (rows, each) = world.from_first(read)?;
        state.neighbours = Some(Arc::new(Neighbours { rows, each }));
    }
    state.progress = progress;
    Ok(())
}

fn save_neighbours(path: &Path, neighbours: &Neighbours) -> Result<()> {
    let shape = (neighbours.rows.len() / neighbours.each.max(1), neighbours.each);
    let rows = Tensor::from_slice(&neighbours.rows, shape, &Device::Cpu)?;
    save_safetensors(path, &[("neighbours".to_string(), rows)])
}

/// The tensors of a file that this program wrote.
///
/// # Errors
/// It is no regular file, or no whole safetensors file.
pub(super) fn tensors_of(path: &Path) -> Result<HashMap<String, Tensor>> {
    // What took its place may be a pipe, which waits for who writes into it.
    drop(open_plain(path)?);
    Ok(candle_core::safetensors::load(path, &Device::Cpu)?)
}

/// The lists and how long each is.
fn read_neighbours(path: &Path) -> Result<(Vec<u32>, usize)> {
    let tensors = tensors_of(path)
        .with_context(|| format!("{}: the checkpoint is damaged; resume from another", path.display()))?;
    let rows = tensors.get("neighbours").with_context(|| format!("{}: has no neighbours", path.display()))?;
    Ok((rows.flatten_all()?.to_vec1()?, rows.dim(1)?))
}

/// That a checkpoint is damaged, and which one to take instead.
fn damaged(folder: &Path) -> String {
    let inside = fs::read_dir(folder.parent().unwrap_or(folder)).into_iter().flatten().flatten();
    let whole = inside.map(|entry| entry.path()).filter(|path| path != folder && path.join(STATE_FILE).is_file());
    match whole.filter(|path| check_checksums(path).is_ok()).max() {
        Some(other) => format!("the checkpoint is damaged; resume from another: --resume {}", other.display()),
        None => "the checkpoint is damaged, and there is no other".into(),
    }
}

/// After a look at the whole checkpoint: is it what was written?
fn read_progress(folder: &Path) -> Result<Progress> {
    if !check_checksums(folder)? {
        tracing::warn!("{}: has no checksums, so damage may go unseen", folder.display());
    }
    let path = folder.join(STATE_FILE);
    let text = read_up_to(&path, json::MAX_BYTES)?;
    serde_json::from_slice(&text).with_context(|| format!("{}: not a checkpoint's state", path.display()))
}

/// The tensors of a checkpoint's file, which must be those of `wanted`, on every rank.
fn of_file(
    world: &dyn Collective,
    folder: Option<&Path>,
    name: &str,
    wanted: Vec<(String, Tensor)>,
) -> Result<HashMap<String, Tensor>> {
    let mut saved = match folder {
        Some(folder) => {
            let path = folder.join(name);
            let saved = tensors_of(&path)
                .with_context(|| format!("{}: the checkpoint is damaged; resume from another", path.display()))?;
            ensure!(
                saved.len() == wanted.len(),
                "{}: has {} tensors, the config's model has {}",
                path.display(),
                saved.len(),
                wanted.len()
            );
            Some(saved)
        }
        None => None,
    };
    let mut all = HashMap::new();
    for (key, like) in wanted {
        let own = match &mut saved {
            Some(saved) => {
                let Some(own) = saved.remove(&key) else { bail!("{name} of the checkpoint has no {key}") };
                ensure!(own.shape() == like.shape(), "{name}: {key} is {:?}, not {:?}", own.dims(), like.dims());
                own.to_device(like.device())?
            }
            None => like,
        };
        all.insert(key, world.broadcast(&own)?);
    }
    Ok(all)
}
