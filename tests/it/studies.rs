//! Studies and volumes after they are read: which slices count, and what is drawn of them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use candle_core::{Device, Tensor};
use reportclip::data::{BagPolicy, HeldImages, ImageSource, Member, Members, Picture, Preprocess, image};
use reportclip::eval::{BagExplanation, BagImage, ReadBag, explain_bag, strip};
use reportclip::loss::{LocalConfig, LocalForm, OBJECTIVES, TargetKind};
use reportclip::model::checkpoint::random;
use reportclip::model::{BagPooling, BagPosition};
use reportclip::ops::{Segments, Value, reference};
use reportclip::session::Session;

use crate::bags::{nifti, nifti_of};
use crate::common::golden;
use crate::runs::{Place, json, text};
use crate::session::tiny;

const POOLINGS: [BagPooling; 3] =
    [BagPooling::Mean, BagPooling::Max, BagPooling::Attention { hidden: 6, position: BagPosition::Sinusoidal }];

fn session(bag_pooling: BagPooling) -> Session {
    let mut session = tiny(None);
    session.folder.config.bag_pooling = bag_pooling;
    session.params = random(&session.folder.config, 1, &Device::Cpu).unwrap();
    session
}

/// A volume of eight slices, which go through the tower together, of which the seventh alone shows something.
fn planted(folder: &Path) -> Members {
    let path = folder.join("ct.nii");
    nifti_of(&path, 8, |i| {
        let (x, y) = (i % 24, i / 24 % 20);
        if i / 480 == 6 && (8..16).contains(&x) && (5..13).contains(&y) { 200 } else { (20 + x) as i16 }
    });
    Members::of(ImageSource::from(path), &session(BagPooling::Mean).folder.bags).unwrap()
}

fn explained(session: &Session, members: &Members, text: &str) -> BagExplanation {
    explain_bag(session, ReadBag::of(session, members).unwrap(), text).unwrap()
}

/// Of texts, one that the planted slice is nearer to than the others are.
fn text_of(session: &Session, members: &Members) -> &'static str {
    let texts = ["effusion", "left", "no pleural", "pleural effusion left", "no effusion", "large", "right nodule"];
    let nearer = |text: &&&str| {
        let bag = explained(session, members, text);
        bag.images.iter().all(|image| image.number == 6 || image.alone < bag.images[6].alone - 1e-4)
    };
    texts.iter().find(nearer).unwrap()
}

#[test]
fn the_slice_that_was_planted_is_told_from_the_others_whatever_the_pooling() {
    let dir = tempfile::tempdir().unwrap();
    let members = planted(dir.path());
    let poolings =
        [BagPooling::Mean, BagPooling::Max, BagPooling::Attention { hidden: 6, position: BagPosition::None }];
    for pooling in poolings {
        let session = session(pooling);
        let bag = explained(&session, &members, text_of(&session, &members));
        assert_eq!((bag.count, bag.images.len()), (8, 8));
        let (planted, others): (Vec<&BagImage>, Vec<&BagImage>) =
            bag.images.iter().partition(|image| image.number == 6);
        let sum: f64 = bag.images.iter().map(|image| image.part).sum();
        assert!((sum - bag.cosine).abs() < 1e-5, "{pooling:?}: {sum}");
        let rising: f64 = bag.images.iter().map(|image| image.gradient_share).sum();
        assert!((rising - 1.0).abs() < 1e-9, "{pooling:?}: {rising}");
        // All others are one picture.
        assert!(others.iter().all(|image| (image.part - others[0].part).abs() < 1e-6), "{pooling:?}: {bag:?}");
        assert!((planted[0].part - others[0].part).abs() > 1e-5, "{pooling:?}: {bag:?}");
        let of_others: f64 = others.iter().map(|image| image.gradient).sum();
        match pooling {
            // A bag that grows as a whole keeps its direction.
            BagPooling::Max => assert!((planted[0].gradient + of_others).abs() < 1e-5, "{bag:?}"),
            BagPooling::Mean => {
                assert!((planted[0].gradient + 7.0 * others[0].gradient).abs() < 1e-5, "{bag:?}");
                assert_eq!((bag.first().unwrap().number, bag.top(1)), (6, vec![6]));
            }
            BagPooling::Attention { .. } => {
                assert!(others.iter().all(|image| (image.gradient - others[0].gradient).abs() < 1e-5), "{bag:?}");
                assert!((planted[0].gradient - others[0].gradient).abs() > 1e-5, "{bag:?}");
            }
        }
    }
}

/// Gradient × input is how the bag's cosine changes where an embedding grows, by differences.
#[test]
fn gradients_of_slices_are_those_of_differences() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ct.nii");
    nifti_of(&path, 5, |i| ((i % 24) * (i / 480 + 2) * 9 + i / 24 % 20 * 17 + i / 480 * 40) as i16);
    for pooling in POOLINGS {
        let session = session(pooling);
        let members = Members::of(ImageSource::from(path.clone()), &session.folder.bags).unwrap();
        let bag = explained(&session, &members, "left pleural effusion");
        let encoder = session.encoder(3).unwrap();
        let slices = slices(&members);
        let units: Vec<Tensor> = slices
            .iter()
            .map(|(number, slice)| {
                let path = dir.path().join(format!("{number}.png"));
                fs::write(&path, image::png(slice).unwrap()).unwrap();
                encoder.images(&[path.into()]).unwrap()
            })
            .collect();
        let words = encoder.texts(&["left pleural effusion"]).unwrap();
        let places: Vec<f32> = (0..5).map(|i| i as f32 / 4.0).collect();
        let cosine = |grown: usize, by: f64| -> f64 {
            let rows: Vec<Tensor> = (0..5)
                .map(|i| if i == grown { units[i].affine(1.0 + by, 0.0).unwrap() } else { units[i].clone() })
                .collect();
            let rows = Value::from(Tensor::cat(&rows, 0).unwrap());
            let pooled = encoder.model.pool_unit_rows(&rows, &Segments::of_lengths([5]), &places).unwrap();
            let cosine = (reference::l2_normalize(pooled.tensor()).unwrap() * &words).unwrap().sum_all().unwrap();
            f64::from(cosine.to_scalar::<f32>().unwrap())
        };
        assert!((cosine(0, 0.0) - bag.cosine).abs() < 1e-5, "{pooling:?}");
        // Small enough that no other image becomes the largest of a column.
        let by = 2e-3;
        for (i, image) in bag.images.iter().enumerate() {
            let difference = (cosine(i, by) - cosine(i, -by)) / (2.0 * by);
            assert!((difference - image.gradient).abs() < 2e-4, "{pooling:?} {i}: {difference}, {}", image.gradient);
        }
    }
}

fn slices(members: &Members) -> Vec<(usize, Picture)> {
    let mut found = Vec::new();
    let all: Vec<usize> = (0..members.count()).collect();
    members.each(&all, &mut |number, picture| {
        found.push((number, picture.unwrap()));
        true
    });
    found
}

#[test]
fn a_strip_shows_the_first_slices_with_the_bags_own_gradient() {
    let dir = tempfile::tempdir().unwrap();
    let members = planted(dir.path());
    let session = session(BagPooling::Mean);
    let bag = explained(&session, &members, text_of(&session, &members));
    let all = slices(&members);
    let wanted: Vec<(usize, Picture)> = all.iter().filter(|(n, _)| bag.top(3).contains(n)).cloned().collect();
    let strip = |pictures: &[(usize, Picture)]| strip(&session, &bag, pictures).unwrap();
    let picture = image::decode(&strip(&wanted), 0).unwrap();
    assert_eq!((picture.width, picture.height), (3 * 224 + 2 * 4, 224 + 28));
    let at = |x: usize, y: usize| -> [u8; 3] {
        let at = (y * picture.width as usize + x) * 3;
        [picture.bytes[at], picture.bytes[at + 1], picture.bytes[at + 2]]
    };
    // The planted square is in the first one alone.
    assert!(at(112, 100)[2] > at(228 + 112, 100)[2], "the slice that counts most comes first");
    // Red somewhere, more in the first than in others: one scale for all.
    let red = |cell: usize| -> u64 {
        let pixels = (0..224 * 224).map(|i| at(cell * 228 + i % 224, i / 224));
        pixels.map(|[r, _, b]| u64::from(r.saturating_sub(b))).sum()
    };
    assert!(red(0) > 0, "gradient × attention is drawn");
    let relevance = strip(&wanted);
    assert!(image::decode(&strip(&all[..1]), 0).is_ok());
    assert!(reportclip::eval::strip(&session, &bag, &[(9, all[0].1.clone())]).is_err(), "no image was read as that");
    // After local alignment it is the patches' cosines with the text.
    let mut session = session;
    session.folder.local = Some(LocalConfig { form: LocalForm::Map, temperature: 0.07, attention_temperature: 0.1 });
    let patches = reportclip::eval::strip(&session, &bag, &wanted).unwrap();
    assert!(patches != relevance && image::decode(&patches, 0).is_ok(), "the map that was trained is drawn");
}

/// A bag of one image is that image: its gradient reaches the tower as it does without bags.
#[test]
fn a_bag_of_one_has_no_gradient_beside_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ct.nii");
    nifti_of(&path, 1, |i| (i % 24 * 10) as i16);
    let session = session(POOLINGS[2]);
    let members = Members::of(ImageSource::from(path), &session.folder.bags).unwrap();
    let bag = explained(&session, &members, "effusion");
    let [one] = bag.images[..] else { panic!("{bag:?}") };
    assert!((one.alone - bag.cosine).abs() < 1e-6 && (one.part - bag.cosine).abs() < 1e-6 && one.gradient.abs() < 1e-6);
    assert_eq!(one.share, Some(1.0));
}

#[test]
fn images_in_memory_are_read_as_files_are() {
    let dir = tempfile::tempdir().unwrap();
    let picture = Picture { width: 4, height: 3, channels: 1, bytes: (0..12).map(|i| i * 20).collect() };
    let paths = [dir.path().join("a.png"), dir.path().join("ct.nii")];
    fs::write(&paths[0], image::png(&picture).unwrap()).unwrap();
    nifti(&paths[1], 5);
    let policy = BagPolicy { max: 3, ..BagPolicy::default() };
    let files = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let held = HeldImages::of(files, &policy).unwrap();
    let members = Members::of(ImageSource::of_files(&paths), &policy).unwrap();
    assert_eq!((held.count(), held.are_of_volumes()), (6, false));
    let alone = HeldImages::of(vec![fs::read(&paths[1]).unwrap()], &policy).unwrap();
    assert_eq!((alone.count(), alone.are_of_volumes()), (5, true));
    let wanted = || true;
    let preprocess = Preprocess::clip(8);
    let (ours, left_out) = held.read(&preprocess, &wanted).unwrap();
    assert_eq!(left_out, 0);
    let theirs = members.read(&policy.fixed(6), &policy, |picture| preprocess.prepare(picture, None)).unwrap();
    let values = |member: &Member| {
        let mut values = vec![0.0; member.prepared.len()];
        member.prepared.write(&mut values);
        (member.number, member.place.to_bits(), values)
    };
    assert_eq!(ours.iter().map(values).collect::<Vec<_>>(), theirs.iter().map(values).collect::<Vec<_>>());
    assert_eq!(held.pictures(&[0], &wanted).unwrap()[0].1, picture);
    assert!(held.pictures(&[6], &wanted).is_err());
}

/// Phantom CTs of eight slices, of which six are read, and a tiny model of them.
fn of_volumes() -> Place {
    let place = Place::new();
    for (out, size) in [("ct", "16"), ("larger", "20")] {
        let out = place.run(&["data", "synth", "--volumes", "--out", out, "--patients", "24", "--size", size]);
        assert!(out.status.success(), "{}", text(&out.stderr));
    }
    let config = fs::read_to_string(place.path("tiny.toml")).unwrap();
    let (before, after) = (config.find("[augment]").unwrap(), config.find("[train]").unwrap());
    let config = config[..before].to_string() + "window = [-1000, 400]\nbag.max = 6\n" + &config[after..];
    fs::write(place.path("tiny.toml"), config.replace("phantom/manifest.csv", "ct/manifest.csv")).unwrap();
    place
}

fn losses(place: &Place, run: &str) -> Vec<f64> {
    let lines = fs::read_to_string(place.path(run).join("metrics.jsonl")).unwrap();
    lines.lines().map(|line| json(line.as_bytes())).filter_map(|line| line["loss"].as_f64()).collect()
}

#[test]
fn volumes_train_and_resume_bit_for_bit() {
    let place = of_volumes();
    let cases: [(&str, &[&str]); 4] = [
        (
            "attention",
            &["model.bag_pooling=\"attention\"", "model.bag_position=\"sinusoidal\"", "data.bag.pick=\"random\""],
        ),
        ("chunks", &["model.bag_pooling=\"attention\"", "train.batch_size=4", "train.accum_freq=2"]),
        ("lora", &["model.bag_pooling=\"max\"", "lora.rank=2"]),
        ("frozen", &["model.bag_pooling=\"attention\"", "freeze.image=\"all\""]),
    ];
    for (name, more) in cases {
        let sets: Vec<&str> = more.iter().flat_map(|set| ["--set", *set]).collect();
        let (whole, parts) = (format!("{name}-ten"), format!("{name}-five"));
        place.train_ok(&whole, &sets);
        place.train_ok(&parts, &[&sets[..], &["--set", "train.stop_after=5"]].concat());
        place.train_ok(&parts, &[&sets[..], &["--resume", "latest"]].concat());
        let (a, b) = (losses(&place, &whole), losses(&place, &parts));
        assert!(a == b && a.iter().filter(|loss| loss.is_finite()).count() >= 10, "{name}: {a:?} and {b:?}");
        let weights = |run: &str| fs::read(place.path(run).join("model/model.safetensors")).unwrap();
        assert!(weights(&whole) == weights(&parts), "{name}");
    }
}

/// What is worked out once is each slice that may be read, and no padding; in bf16 it takes half the bytes, is a file
/// of its own, and resumes as exactly.
#[test]
fn slices_are_kept_one_by_one_and_in_bf16_in_half_the_bytes() {
    let place = of_volumes();
    // Volumes of eight and of ten slices: six of each, or all.
    let (small, large) =
        (fs::read_to_string(place.path("ct/manifest.csv")), fs::read_to_string(place.path("larger/manifest.csv")));
    let (small, large) = (small.unwrap(), large.unwrap());
    let mut lines: Vec<String> = vec![small.lines().next().unwrap().to_string()];
    lines.extend(small.lines().skip(1).map(|line| format!("ct/{line}")));
    lines.extend(large.lines().skip(1).map(|line| format!("larger/{}", line.replace(",V", ",W"))));
    fs::write(place.path("both.csv"), lines.join("\n") + "\n").unwrap();
    let training = |from: &str| lines.iter().filter(|line| line.starts_with(from) && line.contains(",train,")).count();
    let slices = 8 * training("ct/") + 9 * training("larger/");
    let train = |out: &str, more: &[&str]| {
        let sets =
            ["data.train=\"both.csv\"", "data.bag.max=9", "freeze.image=\"all\"", "model.bag_pooling=\"attention\""];
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).chain(more.iter().copied()).collect();
        text(&place.train_ok(out, &sets).stderr)
    };
    let bf16 = ["--set", "data.feature_precision=\"bf16\""];
    for (out, more) in [("runs/f32", &[][..]), ("runs/bf16", &bf16)] {
        let told = train(out, more);
        assert!(told.contains(&format!("{slices} of {slices} images to work out")), "{slices}: {told}");
    }
    let kept = |ending: &str| -> u64 {
        let files = fs::read_dir(place.path("runs/feature-cache")).unwrap().map(|file| file.unwrap().path());
        let files: Vec<_> = files.filter(|file| file.extension().is_some_and(|end| end == ending)).collect();
        assert_eq!(files.len(), 1, "{ending}");
        fs::metadata(&files[0]).unwrap().len() - 88 - 4 * slices as u64
    };
    assert_eq!(kept("f32"), 2 * kept("bf16"));
    let (exact, rounded) = (losses(&place, "runs/f32"), losses(&place, "runs/bf16"));
    assert!(exact != rounded && exact.len() == rounded.len());
    assert!(exact.iter().zip(&rounded).all(|(a, b)| (a - b).abs() < 0.02), "{exact:?} {rounded:?}");
    train("runs/parts", &[&bf16[..], &["--set", "train.stop_after=5"]].concat());
    let told = train("runs/parts", &[&bf16[..], &["--resume", "latest"]].concat());
    assert!(told.contains(&format!("0 of {slices} images to work out")), "{told}");
    assert_eq!(losses(&place, "runs/parts"), rounded);
}

#[test]
fn every_objective_trains_on_volumes() {
    let place = of_volumes();
    fs::write(
        place.path("classes.toml"),
        "normal = \"Normal CT of the chest.\"\nnodule = \"Nodule.\"\neffusion = \"Pleural effusion.\"\n",
    )
    .unwrap();
    fs::write(
        place.path("findings.toml"),
        "nodule = { positive = \"Nodule.\", negative = \"No nodule.\" }\n\
         effusion = { positive = \"Effusion.\", negative = \"No effusion.\" }\n",
    )
    .unwrap();
    for kind in OBJECTIVES {
        // What looks at places stands beside what looks at whole images.
        let beside = if kind.needs.places { "\"clip\", " } else { "" };
        let name = format!("loss.kind=[{beside}{:?}]", kind.name);
        let mut sets = vec![name.as_str(), "model.bag_pooling=\"attention\"", "train.max_steps=4", "lora.rank=2"];
        match kind.needs.targets {
            TargetKind::Classes => sets.push("loss.prompts=\"classes.toml\""),
            TargetKind::Findings => sets.push("loss.prompts=\"findings.toml\""),
            // The run of the first objective.
            TargetKind::Teacher => sets.push("loss.teacher=\"clip/model\""),
            _ => {}
        }
        if kind.name == "multi_positive" {
            sets.push("loss.positives=\"label\"");
        }
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
        place.train_ok(kind.name, &sets);
        let found = losses(&place, kind.name);
        assert!(found.len() >= 4 && found.iter().all(|loss| loss.is_finite()), "{}: {found:?}", kind.name);
        assert!(place.path(kind.name).join("model/bag_pooling.safetensors").is_file(), "{}", kind.name);
    }
}

/// What each slice counts is told row by row, and files in the way are kept.
#[test]
fn weights_of_bags_are_told_by_line() {
    let place = of_volumes();
    place.train_ok("run", &["--set", "model.bag_pooling=\"attention\"", "--set", "train.max_steps=4"]);
    let args = ["eval", "--model", "run/model", "--data", "ct/manifest.csv", "--split", "test", "--bootstrap", "0"];
    let out = place.run(&[&args[..], &["--bag-weights", "weights.jsonl"]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let lines: Vec<serde_json::Value> =
        fs::read_to_string(place.path("weights.jsonl")).unwrap().lines().map(|line| json(line.as_bytes())).collect();
    let manifest = fs::read_to_string(place.path("ct/manifest.csv")).unwrap();
    let test: Vec<u64> =
        manifest.lines().zip(1..).filter(|(line, _)| line.contains(",test,")).map(|(_, number)| number).collect();
    assert_eq!(lines.iter().map(|line| line["line"].as_u64().unwrap()).collect::<Vec<_>>(), test);
    for line in &lines {
        let images = line["images"].as_array().unwrap();
        let sum = |key: &str| images.iter().map(|image| image[key].as_f64().unwrap()).sum::<f64>();
        assert_eq!((line["count"].as_u64(), images.len()), (Some(8), 6));
        assert!((sum("share") - 1.0).abs() < 1e-5 && (sum("gradient_share") - 1.0).abs() < 1e-6, "{line}");
        assert!((sum("part") - line["cosine"].as_f64().unwrap()).abs() < 1e-5, "{line}");
    }
    let errors = place.errors(&[&args[..], &["--bag-weights", "weights.jsonl"]].concat(), 1);
    assert!(errors[0].contains("weights.jsonl") && errors[0].contains("--force"), "{errors:?}");
    // What is read beside the manifest is no place for them either.
    fs::write(place.path("boxes.csv"), "image,sentence,x,y,width,height\n").unwrap();
    let both = ["--bag-weights", "boxes.csv", "--force", "--grounding", "boxes.csv"];
    let errors = place.errors(&[&args[..], &both].concat(), 1);
    assert!(errors[0].contains("boxes.csv: this command reads it"), "{errors:?}");
    let image = ["--bag-weights", "ct/images/V0001.nii.gz", "--force"];
    let errors = place.errors(&[&args[..], &image].concat(), 2);
    assert!(errors[0].contains("ends in .jsonl"), "{errors:?}");
}

/// Slices of a golden DICOM series, in the order in which they lie.
fn golden_series(number: usize) -> Vec<Vec<u8>> {
    let golden = json(&fs::read(golden("volumes.json")).unwrap());
    let files = golden["series"][number]["files"].as_object().unwrap();
    let mut slices: Vec<(f64, Vec<u8>)> = files
        .values()
        .map(|file| {
            let mut bytes = Vec::new();
            let packed = STANDARD.decode(file.as_str().unwrap()).unwrap();
            flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            let height = text.split("10.0\\-20.0\\").nth(1).map_or("0", |rest| rest.split([' ', '\0']).next().unwrap());
            (height.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect::<String>().parse().unwrap(), bytes)
        })
        .collect();
    slices.sort_by(|a, b| a.0.total_cmp(&b.0));
    slices.into_iter().map(|(_, bytes)| bytes).collect()
}

#[test]
fn lint_tells_volumes_apart_by_what_is_wrong_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let slices = golden_series(0);
    let write = |name: &str, slices: &[&Vec<u8>]| {
        fs::create_dir(dir.path().join(name)).unwrap();
        for (i, slice) in slices.iter().enumerate() {
            fs::write(dir.path().join(name).join(format!("s{i}.dcm")), slice).unwrap();
        }
    };
    let [a, b, c, d, e] = &slices[..] else { panic!("{} slices", slices.len()) };
    let mut moved = c.clone();
    let at = moved.windows(15).position(|window| window == b"10.0\\-20.0\\10.0").unwrap();
    moved[at + 14] = b'4';
    write("whole", &[a, b, c, d, e]);
    write("lacks", &[a, b, d, e]);
    write("mixed", &[a, b, c, d, &golden_series(1)[0]]);
    write("uneven", &[a, b, &moved, d, e]);
    write("shuffled", &[c, a, b, d, e]);
    nifti(&dir.path().join("single.nii"), 1);
    fs::write(dir.path().join("broken.nii"), "broken").unwrap();
    let rows = "image,report,patient_id,study_id,label\nwhole,r,p,1,x\nlacks,r,q,1,x\nmixed,r,q,2,x\nuneven,r,q,3,x\n\
                shuffled,r,q,4,x\nsingle.nii,r,q,5,x\nbroken.nii,r,q,6,x\nwhole;single.nii,r,p,1,y\n";
    fs::write(dir.path().join("m.csv"), rows).unwrap();
    let lint = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_reportclip"));
        command.args(["data", "lint", "m.csv"]).args(more).current_dir(dir.path()).output().unwrap()
    };
    let report = json(&lint(&["--json"]).stdout);
    let of = |code: &str| -> Vec<&str> {
        let findings = report["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["code"] == code);
        finding.map_or(Vec::new(), |finding| {
            finding["rows"].as_array().unwrap().iter().map(|row| row.as_str().unwrap()).collect()
        })
    };
    for (code, line) in [
        ("missing_slices", 3),
        ("mixed_series", 4),
        ("uneven_spacing", 5),
        ("files_out_of_order", 6),
        ("single_slice", 7),
        ("unreadable_volume", 8),
        ("study_other_label", 9),
    ] {
        assert_eq!(of(code), [format!("m.csv:{line}")], "{code}: {report}");
    }
    let histogram = report["histograms"].as_array().unwrap().iter().find(|of| of["name"] == "images a row").unwrap();
    let bars: Vec<_> = histogram["bars"].as_array().unwrap().iter().filter(|bar| bar[1] != 0).collect();
    assert_eq!(serde_json::to_string(&bars).unwrap(), r#"[["1",1],["5–8",4]]"#);
    let shown = text(&lint(&[]).stdout);
    assert!(shown.contains("images a row: 1: 1, 5–8: 4"), "{shown}");
    assert!(shown.contains("missing_slices: series that lack slices; the first lacks slices: 5.00 mm lie"), "{shown}");
    let hidden = ["s0", "s2.dcm", "1.2.826"];
    assert!(hidden.iter().all(|name| !shown.contains(name)), "{shown}");
}
