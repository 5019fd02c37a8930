//! One optimizer step: the loss over the whole batch, its gradients in the memory of one chunk, the update.

use std::ops::Range;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};

use super::all_reduce::{AllReduce, OnGrad};
use super::found::{ImageFeatures, Local, Run};
use super::opposed::{OpposedFeatures, of_reports};
use super::prompt_tokens::PromptTokens;
use super::supervision::Supervision;
use crate::data::{Batch, KeptTexts};
use crate::dist::Collective;
use crate::loss::{Inputs, LocalFeatures, Loss, LossOutput, PairTargets, PromptFeatures};
use crate::model::{Builder, ClipConfig, ClipModel, Noise, Params};
use crate::ops::profile::{self, Part};
use crate::ops::{Tape, Value, squared_sum};
use crate::optim::{AdamW, Gradients};
use crate::session::Frozen;

/// What is trained, and how. Made by [`TrainStep::new`]; what differs from that is set on it.
#[derive(Clone, Copy)]
pub struct TrainStep<'a> {
    /// The ranks that share the step.
    pub world: &'a dyn Collective,
    /// Shape of the model.
    pub config: &'a ClipConfig,
    /// Its weights.
    pub params: &'a Params,
    /// The objective.
    pub loss: &'a Loss,
    /// What it knows of the training rows beside their pairs, for objectives that ask.
    pub supervision: Option<&'a Supervision>,
    /// What is dropped at random.
    pub noise: Option<&'a Rc<Noise>>,
    /// Where tensors live.
    pub device: &'a Device,
    /// In which type products with weights are worked out: f32 or bf16. Weights, norms, the residual stream and the
    /// loss are f32 either way.
    pub products: DType,
    /// Whether blocks keep only their input for the backward pass.
    pub checkpoint_activations: bool,
    /// Images of bags that pass through the tower at once: of a chunk with more, parts of so many keep only their input
    /// for the backward pass, so that the memory of one part is all that it takes.
    pub images_at_once: usize,
    /// Whether batches may hold texts that say the opposite of reports. All ranks say the same.
    pub opposites: bool,
    /// What is frozen, with what was kept of it: where batches hold [`Images::Features`], and to encode prompts once.
    pub frozen: Option<&'a Frozen>,
    /// What a frozen text tower makes of each sentence of the training reports, where that is kept.
    pub sentences: Option<&'a KeptTexts>,
}

impl<'a> TrainStep<'a> {
    /// A step on pairs alone, without dropout, in f32, where `params` live.
    pub fn new(world: &'a dyn Collective, config: &'a ClipConfig, params: &'a Params, loss: &'a Loss) -> Self {
        Self {
            world,
            config,
            params,
            loss,
            supervision: None,
            noise: None,
            device: params.iter().next().map_or(&Device::Cpu, |p| p.var.device()),
            products: DType::F32,
            checkpoint_activations: false,
            images_at_once: usize::MAX,
            opposites: false,
            frozen: None,
            sentences: None,
        }
    }
}

impl TrainStep<'_> {
    /// Forward, backward and one update of the weights. `batches` are this rank's part of the step: the loss and its
    /// gradients are those of the parts of all ranks joined. Returns the loss and the norm of the gradient before
    /// clipping.
    ///
    /// Without clipping each weight is updated as soon as its gradient is known, which is then freed; the norm of the
    /// whole gradient is known only at the end, so with clipping all gradients wait for it.
    ///
    /// # Errors
    /// A loss or gradient that is not finite; a trainable weight that gets no gradient.
    pub fn run(&self, batches: &[Batch], optimizer: &mut AdamW, lr_factor: f64) -> Result<(LossOutput, f64)> {
        if optimizer.clips() {
            let (grads, loss) = self.gradients(batches)?;
            let norm = optimizer.step(self.params, &grads, lr_factor)?;
            return Ok((loss, norm));
        }
        optimizer.start();
        let loss = self.backward(batches, &mut |number, grad| {
            optimizer.apply(self.params.numbered_param(number), &grad, lr_factor)
        })?;
        Ok((loss, optimizer.finish()?))
    }

    /// Loss and gradients, by name, over all `batches` together.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn gradients(&self, batches: &[Batch]) -> Result<(Gradients, LossOutput)> {
        let mut grads = Gradients::new();
        let loss = self.backward(batches, &mut |number, grad| {
            grads.insert(self.params.numbered_param(number).spec.name.clone(), grad);
            Ok(())
        })?;
        Ok((grads, loss))
    }

    /// Every pair of `batches` is a negative of every other. `on_grad` gets the number of each trainable weight with
    /// its gradient, once no step needs the weight any more.
    ///
    /// With one batch, plain back-propagation. With more, in two passes (GradCache, arXiv 2101.06983): features of all
    /// chunks, the loss's gradient on the features, then each chunk again with its features' gradient. Only the last
    /// chunk's steps are recorded in the first pass: it runs back first, and needs no second forward pass.
    fn backward(&self, batches: &[Batch], on_grad: &mut OnGrad) -> Result<LossOutput> {
        let tape = Tape::new(self.params.len());
        let builder = Builder::train(self.params, &tape).products(self.products).used_often(batches.len() > 1);
        let builder = builder.recompute(self.checkpoint_activations);
        let builder = self.noise.map_or(builder.clone(), |noise| builder.noise(noise));
        let model = Rc::new(ClipModel::new(self.config, &builder)?);
        let run = Run { tape: &tape, model: &model };
        let mut sums = AllReduce::new(self.world, self.params);
        let mut tell = |leaf: usize| tape.take_grad(leaf).map_or(Ok(()), |grad| sums.put(leaf, grad, on_grad));
        // A rank none of whose rows could be read has no batch, and takes part in the sums.
        let (last, earlier) = batches.split_last().map_or((None, batches), |(last, earlier)| (Some(last), earlier));
        let mut found = tape.paused(|| self.features(run, earlier))?;
        self.chunk(earlier.len());
        let image = last.map(|last| self.images(run, last)).transpose()?;
        let text = last.map(|last| self.texts(&model, last)).transpose()?.flatten();
        found.add(image.as_ref(), text.as_ref());
        let prompts = self.supervision.and_then(Supervision::prompts);
        let prompts = prompts.map(|p| p.features(&model, self.frozen, self.world, self.device)).transpose()?;
        let rows: Vec<u32> = batches.iter().flat_map(|b| b.rows.iter().map(|&row| row as u32)).collect();
        let (rows, own) = self.world.gather_numbers(&rows)?;
        let local = self.local(run, &rows, &found)?;
        let images = self.gather(&found.images)?;
        let (texts, opposed) = self.gather_texts(&found.texts, batches, own.start)?;
        let of_prompts = prompts.as_ref().map(|p| &p.all);
        let (output, grads) =
            self.loss((&images, texts.as_ref(), of_prompts), (local.as_ref(), opposed.as_ref()), &rows, &model)?;
        // A weight is done with once the last chunk has passed it.
        let mut run_back = |outputs: Vec<(Value, Tensor)>, is_last: bool| {
            let mut finished = |leaf| if is_last { tell(leaf).map_err(wrapped) } else { Ok(()) };
            let (values, grads): (Vec<Value>, Vec<Tensor>) = outputs.into_iter().unzip();
            tape.backward(values.iter().zip(grads), &mut finished).map_err(anyhow::Error::from)
        };
        // Of what the images of these pairs, counted from this rank's first, came to.
        let of_images = |image: ImageFeatures, pairs: Range<usize>| -> Result<Vec<(Value, Tensor)>> {
            let pairs = own.start + pairs.start..own.start + pairs.end;
            let mut outputs = vec![(image.whole, part(&grads.image, pairs.clone())?)];
            if let (Some((patches, _)), Some(local), Some(grad)) = (image.patches, &local, &grads.patches) {
                outputs.push((patches, part(grad, local.rows_of(pairs))?));
            }
            Ok(outputs)
        };
        let places = opposed.as_ref().map_or(Vec::new(), |opposed| opposed.places(batches));
        let of_texts = |number: usize, pairs: Range<usize>, grad: &Tensor| {
            let of_reports = part(grad, own.start + pairs.start..own.start + pairs.end)?;
            match (places.get(number), &grads.opposed) {
                (Some(place), Some(grad)) if !place.is_empty() => {
                    anyhow::Ok(Tensor::cat(&[of_reports, part(grad, place.clone())?], 0)?)
                }
                _ => Ok(of_reports),
            }
        };
        let in_last = own.len() - last.map_or(0, |last| last.pairs)..own.len();
        let mut outputs = image.map_or(Ok(Vec::new()), |image| of_images(image, in_last.clone()))?;
        if let (Some(text), Some(grad)) = (text, &grads.text) {
            outputs.push((text, of_texts(earlier.len(), in_last, grad)?));
        }
        let sentences = local.as_ref().map(|local| &local.sentences).zip(grads.sentences);
        for (features, grad) in prompts.as_ref().zip(grads.prompts).into_iter().chain(sentences) {
            outputs.extend(features.own_part(grad)?);
        }
        drop(prompts);
        run_back(outputs, earlier.is_empty())?;
        let mut start = 0;
        for (i, batch) in earlier.iter().enumerate() {
            self.chunk(i);
            // One tower after the other: the memory of one at a time. Texts first, as with one chunk.
            let (pairs, is_last) = (start..start + batch.pairs, i + 1 == earlier.len());
            if let (Some(text), Some(grad)) = (self.texts(&model, batch)?, &grads.text) {
                run_back(vec![(text, of_texts(i, pairs.clone(), grad)?)], is_last)?;
            }
            run_back(of_images(self.images(run, batch)?, pairs)?, is_last)?;
            start += batch.pairs;
        }
        // Every rank has worked out the whole loss, so its gradient on these.
        let (of_scale, of_bias) =
            (Some((model.logit_scale(), grads.logit_scale)), model.logit_bias().zip(grads.logit_bias));
        for (value, grad) in of_scale.into_iter().chain(of_bias) {
            tape.backward([(value, self.world.counted_once(grad)?)], &mut |_| Ok(()))?;
        }
        // They are no inputs of a step: the tape tells of them here.
        (0..self.params.len()).try_for_each(&mut tell)?;
        sums.finish(on_grad)?;
        Ok(output)
    }

    /// Features of this rank's chunks and of all other ranks', (all pairs, embed_dim).
    pub(super) fn gather(&self, own: &[Tensor]) -> Result<Tensor> {
        self.world.gather_parts(own, self.config.embed_dim, self.device)
    }

    /// Features of the reports and of their opposites, of this rank's chunks and of all other ranks'. `start` is where
    /// this rank's rows begin.
    fn gather_texts(
        &self,
        own: &[Tensor],
        batches: &[Batch],
        start: usize,
    ) -> Result<(Option<Tensor>, Option<OpposedFeatures>)> {
        if !self.loss.uses_reports() {
            return Ok((None, None));
        }
        if !self.opposites {
            return Ok((Some(self.gather(own)?), None));
        }
        let shape = (self.config.embed_dim, self.device);
        let opposed = OpposedFeatures::gather(self.world, (own, batches), start, shape)?;
        Ok((Some(self.gather(&of_reports(own, batches)?)?), opposed))
    }

    /// Tells layers that drop which chunk is running.
    pub(super) fn chunk(&self, number: usize) {
        if let Some(noise) = self.noise {
            // Chunks of other ranks are other chunks.
            noise.chunk.set(((self.world.rank() as u64) << 32) + number as u64);
        }
    }

    /// The loss of image, report and prompt features, and its gradient on what it was made of. `rows` are those of the
    /// batch.
    fn loss(
        &self,
        (image, text, prompts): (&Tensor, Option<&Tensor>, Option<&Tensor>),
        (local, opposed): (Option<&Local>, Option<&OpposedFeatures>),
        rows: &[u32],
        model: &ClipModel,
    ) -> Result<(LossOutput, LossGradients)> {
        let _timed = profile::enter(Part::Loss);
        let var = |t: Option<&Tensor>| t.map(Var::from_tensor).transpose();
        let (image, text) = (Var::from_tensor(image)?, var(text)?);
        let (prompts, of_opposed) = (var(prompts)?, var(opposed.map(|o| &o.all))?);
        let (patches, sentences) = (var(local.map(|l| &l.patches))?, var(local.map(|l| &l.sentences.all))?);
        let logit_scale = Var::from_tensor(model.logit_scale().tensor())?;
        let bias = var(model.logit_bias().filter(|_| self.loss.uses_bias()).map(Value::tensor))?;
        let targets = self.supervision.map_or_else(PairTargets::default, |s| s.targets(rows));
        let counts = self.supervision.and_then(Supervision::prompts).map(PromptTokens::counts);
        let features = prompts.as_deref().zip(counts).map(|(sentences, counts)| PromptFeatures { sentences, counts });
        let inputs = Inputs {
            image: &image,
            text: text.as_deref(),
            scale: &logit_scale.exp()?,
            bias: bias.as_deref(),
            prompts: features,
            opposed: opposed.zip(of_opposed.as_deref()).map(|(o, features)| o.as_inputs(features)),
            local: local.zip(patches.as_deref().zip(sentences.as_deref())).map(|(l, (patches, sentences))| {
                LocalFeatures { patches, segments: &l.segments, sentences, of_pairs: &l.of_pairs }
            }),
            targets: &targets,
        };
        let output = checked(self.loss.forward(&inputs)?, &image, text.as_ref())?;
        let _timed = profile::enter_backward(Part::Loss);
        let mut grads = output.loss.backward()?;
        let mut take = |var: &Var, what: &str| grads.remove(var).with_context(|| format!("{what} get no gradient"));
        let grads = LossGradients {
            image: take(&image, "image features")?,
            text: text.map(|text| take(&text, "text features")).transpose()?,
            prompts: prompts.map(|prompts| take(&prompts, "prompt features")).transpose()?,
            opposed: of_opposed.map(|opposed| take(&opposed, "features of opposites")).transpose()?,
            patches: patches.map(|patches| take(&patches, "patch features")).transpose()?,
            sentences: sentences.map(|sentences| take(&sentences, "sentence features")).transpose()?,
            logit_scale: take(&logit_scale, "logit_scale")?,
            logit_bias: bias.map(|bias| take(&bias, "logit_bias")).transpose()?,
        };
        Ok((output, grads))
    }
}

struct LossGradients {
    image: Tensor,
    text: Option<Tensor>,
    prompts: Option<Tensor>,
    opposed: Option<Tensor>,
    patches: Option<Tensor>,
    sentences: Option<Tensor>,
    logit_scale: Tensor,
    logit_bias: Option<Tensor>,
}

/// Rows of a gradient, by themselves.
fn part(grad: &Tensor, rows: Range<usize>) -> Result<Tensor> {
    Ok(grad.narrow(0, rows.start, rows.len())?.copy()?)
}

/// The tape knows candle's errors only.
fn wrapped(error: anyhow::Error) -> candle_core::Error {
    candle_core::Error::wrap(crate::error::one_line(&error))
}

/// The output, or which tensor was the first that is not finite.
fn checked(output: LossOutput, image: &Var, text: Option<&Var>) -> Result<LossOutput> {
    if output.value.is_finite() {
        return Ok(output);
    }
    for (name, features) in [("image features", Some(image)), ("text features", text)] {
        let Some(features) = features else { continue };
        ensure!(
            squared_sum(&features.detach())?.is_finite(),
            "the {name} are not finite; a lower optim.lr often helps"
        );
    }
    anyhow::bail!(
        "the loss is not finite, although the features are: logit_scale has run away; a lower optim.lr often helps"
    )
}
