//! One optimizer step: the loss over the whole batch, its gradients in the memory of one chunk, the update.

use std::ops::Range;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};

use super::all_reduce::{AllReduce, OnGrad};
use super::prompt_tokens::PromptTokens;
use super::supervision::Supervision;
use crate::data::{Bags, Batch, Images};
use crate::dist::Collective;
use crate::loss::{Inputs, Loss, LossOutput, PairTargets, PromptFeatures};
use crate::model::freeze::FreezeDepth;
use crate::model::{self, Builder, ClipConfig, ClipModel, Noise, Param, Params};
use crate::ops::profile::{self, Part};
use crate::ops::{self, Tape, Value, recomputed, squared_sum};
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
    /// What is frozen, with what was kept of it: where batches hold [`Images::Features`], and to encode prompts once.
    pub frozen: Option<&'a Frozen>,
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
            frozen: None,
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
        let (mut images, mut texts) = tape.paused(|| self.features(run, earlier))?;
        self.chunk(earlier.len());
        let image = last.map(|last| self.images(run, last)).transpose()?;
        let text = last.map(|last| self.texts(&model, last)).transpose()?.flatten();
        images.extend(image.iter().map(|i| i.tensor().clone()));
        texts.extend(text.iter().map(|t| t.tensor().clone()));
        let prompts = self.supervision.and_then(Supervision::prompts);
        let prompts = prompts.map(|p| p.features(&model, self.frozen, self.world, self.device)).transpose()?;
        let rows: Vec<u32> = batches.iter().flat_map(|b| b.rows.iter().map(|&row| row as u32)).collect();
        let (rows, own) = self.world.gather_numbers(&rows)?;
        let images = self.gather(&images)?;
        let texts = if self.loss.uses_reports() { Some(self.gather(&texts)?) } else { None };
        let of_prompts = prompts.as_ref().map(|p| &p.all);
        let (output, grads) = self.loss((&images, texts.as_ref(), of_prompts), &rows, &model)?;
        // A weight is done with once the last chunk has passed it.
        type Whole<'a> = Option<(&'a Value, Tensor)>;
        let mut run_back = |outputs: &[(&Value, &Tensor)], whole: Whole, (rows, is_last): (Range<usize>, bool)| {
            let part = |grad: &Tensor| grad.narrow(0, own.start + rows.start, rows.len())?.copy();
            let outputs = outputs.iter().map(|(value, grad)| Ok((*value, part(grad)?))).chain(whole.map(Ok));
            let outputs = outputs.collect::<candle_core::Result<Vec<_>>>()?;
            let mut finished = |leaf| if is_last { tell(leaf).map_err(wrapped) } else { Ok(()) };
            tape.backward(outputs, &mut finished).map_err(anyhow::Error::from)
        };
        let in_last = last.map_or(0, |last| last.pairs);
        let of_image = image.as_ref().map(|image| (image, &grads.image));
        let outputs: Vec<_> = of_image.into_iter().chain(text.as_ref().zip(grads.text.as_ref())).collect();
        let of_prompts = prompts.as_ref().zip(grads.prompts).map(|(p, grad)| p.own_part(grad)).transpose()?.flatten();
        let whole = of_prompts.as_ref().map(|(value, grad)| (value, grad.clone()));
        run_back(&outputs, whole, (own.len() - in_last..own.len(), earlier.is_empty()))?;
        drop((image, text, prompts, of_prompts));
        let mut start = 0;
        for (i, batch) in earlier.iter().enumerate() {
            self.chunk(i);
            // One tower after the other: the memory of one at a time. Texts first, as with one chunk.
            let (rows, is_last) = (start..start + batch.pairs, i + 1 == earlier.len());
            if let (Some(text), Some(grad)) = (self.texts(&model, batch)?, &grads.text) {
                run_back(&[(&text, grad)], None, (rows.clone(), is_last))?;
            }
            run_back(&[(&self.images(run, batch)?, &grads.image)], None, (rows, is_last))?;
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
    fn gather(&self, own: &[Tensor]) -> Result<Tensor> {
        self.world.gather_parts(own, self.config.embed_dim, self.device)
    }

    /// Tells layers that drop which chunk is running.
    fn chunk(&self, number: usize) {
        if let Some(noise) = self.noise {
            // Chunks of other ranks are other chunks.
            noise.chunk.set(((self.world.rank() as u64) << 32) + number as u64);
        }
    }

    /// image_features of a batch, (pairs, embed_dim): those of its images, or what stands for those of each bag.
    fn images(&self, run: Run, batch: &Batch) -> Result<Value> {
        let single = || Bags::of_single(batch.pairs);
        // Attention is trained whether a batch has bags of several images or not.
        let bags = batch.bags.clone().or_else(|| self.config.bag_pooling.has_weights().then(single));
        let count = bags.as_ref().map_or(batch.pairs, |bags| bags.segments.rows());
        let features = self.image_features(run, batch, count)?;
        Ok(match bags {
            None => features,
            Some(bags) => run.model.pool_bags(&features, &bags.segments, &bags.places)?,
        })
    }

    /// image_features of the `count` images of a batch, (images, embed_dim).
    fn image_features(&self, run: Run, batch: &Batch, count: usize) -> Result<Value> {
        let tower = |x: &Tensor, model: &ClipModel, frozen: Option<FreezeDepth>| match frozen {
            Some(frozen) => model.image_features_above(x.clone(), frozen),
            None => model.image_features(x),
        };
        let (x, frozen) = if let Images::Features(numbers) = &batch.images {
            // Of layers that see rows of a tower, an image has several.
            let width = self.config.vision.width();
            let frozen = self.frozen.context("image features of frozen layers, and nothing is frozen")?;
            (batch.images.to_tensor((numbers.len() / width, width), self.device)?, Some(frozen.image()))
        } else {
            let size = self.config.vision.image_size();
            (batch.images.to_tensor((count, 3, size, size), self.device)?, None)
        };
        if batch.bags.is_none() || count <= self.images_at_once {
            return Ok(tower(&x, run.model, frozen)?);
        }
        let (weights, each) = (self.image_weights(run.tape), x.dim(0)? / count);
        let weights: Vec<&Value> = weights.iter().collect();
        let mut all: Option<Value> = None;
        for (part, start) in (0..count).step_by(self.images_at_once).enumerate() {
            let images = self.images_at_once.min(count - start);
            let x = x.narrow(0, start * each, images * each)?.into();
            let (model, noise) = (Rc::clone(run.model), self.noise.cloned());
            let features = recomputed(&x, &weights, move |x| {
                // Parts are dropped from as chunks are, each in its own way.
                let features = || tower(x.tensor(), &model, frozen);
                let Some(noise) = &noise else { return features() };
                noise.during(noise.chunk.get() + ((part as u64 + 1) << PART_SHIFT), features)
            })?;
            all = Some(all.map_or(Ok(features.clone()), |all| ops::concat_rows(&all, &features))?);
        }
        all.context("a batch without images")
    }

    /// The trained weights that lie between pixels and image_features.
    fn image_weights(&self, tape: &Rc<Tape>) -> Vec<Value> {
        let of_images = |p: &Param| p.spec.part == model::Part::Image || p.spec.name.starts_with("visual_projection.");
        let trained = self.params.numbered().filter(|(_, p)| p.trainable && of_images(p));
        trained.map(|(number, p)| tape.leaf(number, p.var.as_detached_tensor())).collect()
    }

    /// text_features of a batch, (pairs, embed_dim), where the loss looks at them.
    fn texts(&self, model: &ClipModel, batch: &Batch) -> Result<Option<Value>> {
        if !self.loss.uses_reports() {
            return Ok(None);
        }
        let input_ids = Tensor::from_slice(&batch.input_ids, (batch.pairs, batch.tokens), self.device)?;
        Ok(Some(model.text_features(&input_ids)?))
    }

    /// Features of each batch.
    fn features(&self, run: Run, batches: &[Batch]) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let (mut images, mut texts) = (Vec::new(), Vec::new());
        for (i, batch) in batches.iter().enumerate() {
            self.chunk(i);
            images.push(self.images(run, batch)?.tensor().clone());
            texts.extend(self.texts(run.model, batch)?.map(|t| t.tensor().clone()));
        }
        Ok((images, texts))
    }

    /// The loss of image, report and prompt features, and its gradient on what it was made of. `rows` are those of the
    /// batch.
    fn loss(
        &self,
        (image, text, prompts): (&Tensor, Option<&Tensor>, Option<&Tensor>),
        rows: &[u32],
        model: &ClipModel,
    ) -> Result<(LossOutput, LossGradients)> {
        let _timed = profile::enter(Part::Loss);
        let var = |t: Option<&Tensor>| t.map(Var::from_tensor).transpose();
        let (image, text) = (Var::from_tensor(image)?, var(text)?);
        let prompts = var(prompts)?;
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
            logit_scale: take(&logit_scale, "logit_scale")?,
            logit_bias: bias.map(|bias| take(&bias, "logit_bias")).transpose()?,
        };
        Ok((output, grads))
    }
}

/// A step's tape with the model on it.
#[derive(Clone, Copy)]
struct Run<'a> {
    tape: &'a Rc<Tape>,
    model: &'a Rc<ClipModel>,
}

/// Where the number of a part stands in a chunk's: above those of all chunks of a rank.
const PART_SHIFT: u32 = 16;

struct LossGradients {
    image: Tensor,
    text: Option<Tensor>,
    prompts: Option<Tensor>,
    logit_scale: Tensor,
    logit_bias: Option<Tensor>,
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
