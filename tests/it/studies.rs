//! Studies and volumes after they are read: which slices count, and what is drawn of them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use reportclip::data::{ImageSource, Members, Picture, image};
use reportclip::eval::{BagExplanation, ReadBag, explain_bag, strip};
use reportclip::model::checkpoint::random;
use reportclip::model::{BagPooling, BagPosition};
use reportclip::ops::{Segments, Value, reference};
use reportclip::session::Session;

use crate::bags::nifti_of;
use crate::session::tiny;

const POOLINGS: [BagPooling; 3] =
    [BagPooling::Mean, BagPooling::Max, BagPooling::Attention { hidden: 6, position: BagPosition::Sinusoidal }];

fn session(bag_pooling: BagPooling) -> Session {
    let mut session = tiny(None);
    session.folder.config.bag_pooling = bag_pooling;
    session.params = random(&session.folder.config, 1, &Device::Cpu).unwrap();
    session
}

/// A volume of nine slices of which the seventh alone shows something.
fn planted(folder: &Path) -> Members {
    let path = folder.join("ct.nii");
    nifti_of(&path, 9, |i| {
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
fn the_slice_that_was_planted_counts_most_whatever_the_pooling() {
    let dir = tempfile::tempdir().unwrap();
    let members = planted(dir.path());
    for pooling in POOLINGS {
        let session = session(pooling);
        let bag = explained(&session, &members, text_of(&session, &members));
        assert_eq!((bag.count, bag.images.len()), (9, 9));
        let of = |number: usize| &bag.images[number];
        let rising: f64 = bag.images.iter().map(|image| image.gradient_share).sum();
        assert!((rising - 1.0).abs() < 1e-9, "{pooling:?}: {rising}");
        if matches!(pooling, BagPooling::Mean) {
            // All others are one picture: they share what is left.
            assert!(bag.images.iter().all(|image| image.number == 6 || image.gradient < 0.0), "{bag:?}");
            assert_eq!((bag.first().unwrap().number, bag.top(1)), (6, vec![6]));
            assert!((of(6).gradient_share - 1.0).abs() < 1e-9 && (of(6).gradient + 8.0 * of(0).gradient).abs() < 1e-6);
        }
        let most = bag.images.iter().max_by(|a, b| a.gradient.total_cmp(&b.gradient)).unwrap();
        assert_eq!(most.number, 6, "{pooling:?}: {bag:?}");
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
        let slices = slices(&members, &session);
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

fn slices(members: &Members, session: &Session) -> Vec<(usize, Picture)> {
    let mut found = Vec::new();
    let all: Vec<usize> = (0..members.count()).collect();
    members.each(&all, &session.folder.bags, &mut |number, picture| {
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
    let all = slices(&members, &session);
    let wanted: Vec<(usize, Picture)> = all.iter().filter(|(n, _)| bag.top(3).contains(n)).cloned().collect();
    let strip = |pictures: &[(usize, Picture)]| strip(&session, &bag, pictures).unwrap();
    let picture = image::decode(&strip(&wanted), 0).unwrap();
    assert_eq!((picture.width, picture.height), (3 * 224 + 2 * 4, 224 + 28));
    let at = |x: usize, y: usize| -> [u8; 3] {
        let at = (y * picture.width as usize + x) * 3;
        [picture.bytes[at], picture.bytes[at + 1], picture.bytes[at + 2]]
    };
    // The planted square is in the first one alone.
    assert!(at(112, 100)[0] > at(228 + 112, 100)[0], "the slice that counts most comes first");
    // Red somewhere, more in the first than in others: one scale for all.
    let red = |cell: usize| -> u64 {
        let pixels = (0..224 * 224).map(|i| at(cell * 228 + i % 224, i / 224));
        pixels.map(|[r, _, b]| u64::from(r.saturating_sub(b))).sum()
    };
    assert!(red(0) > 0, "gradient × attention is drawn");
    assert!(image::decode(&strip(&all[..1]), 0).is_ok());
    assert!(reportclip::eval::strip(&session, &bag, &[(9, all[0].1.clone())]).is_err(), "no image was read as that");
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
