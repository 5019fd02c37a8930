//! Checkpoints of a run: weights, moments and state, written aside and renamed, so that a kill leaves a whole one.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;

use super::records::TrainState;
use crate::model::Params;
use crate::model::checkpoint::save_safetensors;
use crate::ops::squared_sum;
use crate::optim::{AdamW, Ema};
use crate::track::{RunFolder, replace_folder};

/// How many of the last checkpoints stay, beside the best.
const KEPT: usize = 2;

/// Averaged weights, where a run keeps them: what was evaluated.
pub(super) const EMA_FILE: &str = "ema.safetensors";

/// Writes the checkpoint of `state.step` and removes all but the last ones.
pub(super) fn save(
    run: &RunFolder,
    params: &Params,
    optimizer: &AdamW,
    ema: Option<&Ema>,
    state: &TrainState,
) -> Result<()> {
    for param in params.iter() {
        let finite = squared_sum(&param.var.as_detached_tensor())?.is_finite();
        ensure!(finite, "weight {} is not finite; not saved, the checkpoint before is whole", param.spec.name);
    }
    replace_folder(&run.checkpoint_path(state.step), |folder| {
        let weights: Vec<_> = params.iter().map(|p| (p.spec.name.clone(), p.var.as_detached_tensor())).collect();
        save_safetensors(&folder.join("model.safetensors"), &weights)?;
        save_safetensors(&folder.join("optimizer.safetensors"), &optimizer.state())?;
        ema.map_or(Ok(()), |ema| save_safetensors(&folder.join(EMA_FILE), &ema.state()))?;
        Ok(fs::write(folder.join("state.json"), serde_json::to_vec_pretty(state)?)?)
    })?;
    let best = state.best.as_ref().map(|(step, _)| *step);
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

/// Puts a checkpoint's weights and moments into `params` and `optimizer`.
pub(super) fn restore(folder: &Path, params: &Params, optimizer: &mut AdamW, ema: Option<&Ema>) -> Result<TrainState> {
    let read = |name: &str| {
        let path = folder.join(name);
        candle_core::safetensors::load(&path, &Device::Cpu)
            .with_context(|| format!("{}: the checkpoint is damaged; resume from another", path.display()))
    };
    let path = folder.join("state.json");
    let text = fs::read(&path).with_context(|| path.display().to_string())?;
    let state: TrainState =
        serde_json::from_slice(&text).with_context(|| format!("{}: not a checkpoint's state", path.display()))?;
    let weights = read("model.safetensors")?;
    ensure!(
        weights.len() == params.iter().count(),
        "{}: has {} weights, the config's model has {}",
        folder.display(),
        weights.len(),
        params.iter().count()
    );
    for param in params.iter() {
        let name = &param.spec.name;
        let Some(saved) = weights.get(name) else { bail!("{}: has no weight {name}", folder.display()) };
        param
            .var
            .set(&saved.to_device(param.var.device())?)
            .with_context(|| format!("{}: {name}", folder.display()))?;
    }
    optimizer.restore(&read("optimizer.safetensors")?, state.step)?;
    if let Some(ema) = ema {
        ema.restore(&read(EMA_FILE)?)?;
    }
    Ok(state)
}
