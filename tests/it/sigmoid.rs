//! Models made from nothing for the sigmoid loss, which needs a bias that a CLIP of transformers has no place for.
#![allow(clippy::unwrap_used)]

use std::fs;

use candle_core::{Device, Tensor};

use crate::runs::{Place, json, text};

const SIGMOID: [&str; 4] = ["--set", "loss.kind=siglip", "--set", "loss.label_smoothing=0"];

fn heads(place: &Place, run: &str) -> Option<(f32, f32)> {
    let path = place.path(run).join("model/model.safetensors");
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let scalar = |name: &str| tensors.get(name).map(|t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]);
    Some((scalar("logit_scale").unwrap(), scalar("logit_bias")?))
}

#[test]
fn a_model_made_from_nothing_gets_the_bias_that_a_sigmoid_needs() {
    let place = Place::new();
    let train = |out: &str, more: &[&str]| place.train_ok(out, &[&SIGMOID[..], more].concat());
    let output = train("run", &["--set", "train.max_steps=6"]);
    assert!(text(&output.stderr).contains("logit_bias: −10 and a scale of 10"), "{}", text(&output.stderr));
    // Both start where SigLIP's paper has them, and both are trained.
    let (scale, bias) = heads(&place, "run").unwrap();
    assert!((scale - 10f32.ln()).abs() < 0.05 && scale != 10f32.ln(), "{scale}");
    assert!((bias + 10.0).abs() < 0.05 && bias != -10.0, "{bias}");
    let config = json(&fs::read(place.path("run/model/config.json")).unwrap());
    assert_eq!((&config["model_type"], &config["logit_bias_init_value"]), (&"clip".into(), &(-10.0).into()));
    let card = fs::read_to_string(place.path("run/model/README.md")).unwrap();
    assert!(card.contains("CLIPModel.from_pretrained") && card.contains("has a `logit_bias`. CLIPModel has none"));

    // The loss falls from where chance is, and its gradient is not zero.
    let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let steps: Vec<_> = metrics.lines().map(|l| json(l.as_bytes())).filter(|l| l["loss_hard"].is_number()).collect();
    assert!(steps.len() >= 6 && steps.iter().all(|s| s["loss_hard"].as_f64().unwrap().is_finite()), "{steps:?}");

    // Six steps are three, a stop, and three more.
    train("halves", &["--set", "train.max_steps=6", "--set", "train.stop_after=3"]);
    train("halves", &["--set", "train.max_steps=6", "--resume", "latest"]);
    place.assert_same_run("run", "halves");

    // What is written is read: for figures, for logits with the bias in them, and for more training.
    let on = ["--model", "run/model", "--data", "phantom/manifest.csv"];
    let output = place.run(&[&["eval"], &on[..], &["--split", "test", "--bootstrap", "0"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(place.run(&[&["embed"], &on[..], &["--out", "all.safetensors"]].concat()).status.success());
    let tensors = candle_core::safetensors::load(place.path("all.safetensors"), &Device::Cpu).unwrap();
    let numbers = |name: &str| tensors[name].to_vec2::<f32>().unwrap();
    let (images, texts, logits) = (numbers("image_embeds"), numbers("text_embeds"), numbers("logits_per_image"));
    let cosine: f32 = images[0].iter().zip(&texts[1]).map(|(a, b)| a * b).sum();
    assert!((logits[0][1] - (cosine * scale.exp() + bias)).abs() < 1e-3, "{} {cosine}", logits[0][1]);
    let further = ["--set", "model.init=pretrained", "--set", "model.path=run/model", "--set", "train.max_steps=2"];
    train("further", &further);
    assert_ne!(heads(&place, "further").unwrap().1, bias);

    // Others have none, and start where they did.
    place.train_ok("plain", &["--set", "train.max_steps=2"]);
    assert_eq!(heads(&place, "plain"), None);
}
