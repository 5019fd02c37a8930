//! `reportclip explain`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::manifest_args::PrecisionArg;
use super::{output, usage};
use crate::data::{BagColumns, Columns, ImageSource, Manifest, Members, Picture, image};
use crate::eval::{
    BagExplanation, BagImage, Explanation, MOST_DRAWN, MapKind, Place, ReadBag, explain, explain_bag, place,
    relevance_map, strip,
};
use crate::fs::{is_same_file, may_write_beside, replace_private};
use crate::model::checkpoint::spare_models;
use crate::session::{Session, tell_cut};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("drawn").multiple(true))]
#[command(after_help = "Examples:
  reportclip explain --model runs/demo/model --image scan.png --text \"Large left pleural effusion.\" --out why.png
  reportclip explain --model runs/demo/model --image scan.png --text \"右下肺斑片影\" --data pairs.csv --json
  reportclip explain --model runs/ct/model --image ct.nii.gz --text \"Nodule in the left lower lobe.\" --strip why.png

The picture is the image as the model sees it, with places in red. Of a model that was trained to find sentences among
patches (local alignment), and of towers without attention over patches, these are the patches most alike to the text;
of others those that raise the similarity: gradient × attention, rolled out over all layers. It shows what the model
used, not what is true.")]
pub(super) struct Args {
    /// Model folder or hub id
    #[arg(long, value_name = "DIR|HUB_ID")]
    model: String,
    /// Image: PNG, JPEG or DICOM (scan.dcm#3 for a frame); several, and the slices of volumes, are the images of one
    /// report, and the one that counts most is explained
    #[arg(long, required = true, num_args = 1..)]
    image: Vec<PathBuf>,
    /// Text
    #[arg(long)]
    text: String,
    /// Manifest whose reports the text is held against: where does it stand for this image?
    #[arg(long, value_name = "MANIFEST")]
    data: Option<PathBuf>,
    /// Where to write the picture
    #[arg(long, value_name = "FILE.png", group = "drawn")]
    out: Option<PathBuf>,
    /// Where to write a strip of the images or slices that count most, side by side, with their numbers and shares
    #[arg(long, value_name = "FILE.png", group = "drawn")]
    strip: Option<PathBuf>,
    /// Images of the strip
    #[arg(long, value_name = "N", default_value_t = 8, requires = "strip", value_parser = top)]
    top: usize,
    /// Write over existing pictures
    #[arg(long, requires = "drawn")]
    force: bool,
    #[command(flatten)]
    precision: PrecisionArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn top(text: &str) -> Result<usize, String> {
    usage::from_one(text, MOST_DRAWN)
}

pub(super) fn run(args: &Args) -> Result<()> {
    usage::ensure(!args.text.trim().is_empty(), || "--text is empty; name what to look for".into())?;
    for path in args.image.iter().filter(|path| !image::frame_of(path).0.exists()) {
        let (text, separator) = (path.to_string_lossy(), BagColumns::default().separator);
        usage::ensure(!text.starts_with('[') && !text.contains(&separator), || {
            format!("--image {text}: there is no such file; name several images apart, as in --image a.png b.png")
        })?;
    }
    may_draw(args)?;
    // Gradients of attention are kept by the CPU's kernels alone.
    let session = Session::open(&args.model, "cpu")?.in_precision(args.precision.precision);
    tell_cut(&session.folder.tokenizer, "--text", &[args.text.as_str()])?;
    let source = ImageSource::of_files(&args.image);
    let members = Members::of(source.clone(), &session.folder.bags)?;
    let bag = match members.is_one_image() {
        true => None,
        false => Some(explain_bag(&session, ReadBag::of(&session, &members)?, &args.text)?),
    };
    usage::ensure(args.strip.is_none() || bag.is_some(), || {
        "--strip: is of several images or the slices of a volume; --out draws one image".into()
    })?;
    let most = bag.as_ref().and_then(BagExplanation::first).map_or(0, |image| image.number);
    let picture = match bag {
        Some(_) => members.picture(most)?,
        None => source.read()?,
    };
    let found = explain(&session, &picture, &args.text)?;
    let place = match &args.data {
        Some(data) => {
            let columns = Columns { policy: session.folder.report.clone(), ..Columns::default() };
            let manifest = Manifest::open(data, &columns, None)?;
            for (path, flag) in pictures(args) {
                manifest.spare(path).context(flag)?;
            }
            let rows = manifest.rows;
            ensure!(!rows.is_empty(), "{}: has no usable rows", data.display());
            Some(place(&session, &source, &args.text, &rows)?)
        }
        None => None,
    };
    if let Some(out) = &args.out {
        let seen = session.folder.preprocess.resize_and_crop(&picture, None)?;
        replace_private(out, &relevance_map(&seen, &found).context("--out")?)?;
    }
    if let Some((out, bag)) = args.strip.as_ref().zip(bag.as_ref()) {
        let pictures = top_pictures(&members, bag, args.top).context("--strip")?;
        replace_private(out, &strip(&session, bag, &pictures).context("--strip")?)?;
    }
    if args.json {
        return output::print_json(&json!({
            "bag_cosine": bag.as_ref().map(|bag| bag.cosine), "images": bag.as_ref().map(|bag| &bag.images),
            "explained_image": most,
            "cosine": found.cosine, "logit": found.logit, "grid": found.grid, "patches": found.patches,
            "map": found.map.word(), "reason": found.reason,
            "tokens": found.tokens, "place": place.map(|p| p.place), "gallery": place.map(|p| p.gallery),
        }));
    }
    let of_bag = bag.as_ref().map(lines_of_bag).unwrap_or_default();
    output::print(&of_bag.into_iter().chain(lines(args, &found, place)).collect::<Vec<_>>().join("\n"))
}

/// Where pictures go, and the flags that say so.
fn pictures(args: &Args) -> impl Iterator<Item = (&Path, &'static str)> {
    let given = [(&args.out, "--out"), (&args.strip, "--strip")];
    given.into_iter().filter_map(|(path, flag)| path.as_deref().map(|path| (path, flag)))
}

/// Makes sure that pictures can be written, before they are drawn.
fn may_draw(args: &Args) -> Result<()> {
    let images: Vec<PathBuf> = args.image.iter().map(|path| image::frame_of(path).0).collect();
    for (path, flag) in pictures(args) {
        let read = images.iter().map(PathBuf::as_path).chain([Path::new(&args.model)]).chain(args.data.as_deref());
        // First: the other tries the folder by a file.
        spare_models(path).and_then(|()| may_write_beside(path, args.force, read)).context(flag)?;
        usage::ensure(path.extension().is_none_or(|ending| ending.eq_ignore_ascii_case("png")), || {
            format!("{flag} {}: a PNG is written; name a file that ends in .png", path.display())
        })?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        usage::ensure(folder.is_none_or(Path::is_dir), || {
            format!("{flag} {}: there is no such folder; make it first", path.display())
        })?;
    }
    let same = args.out.as_ref().zip(args.strip.as_ref()).is_some_and(|(a, b)| a == b || is_same_file(a, b));
    usage::ensure(!same, || "--out and --strip name one file; name two".into())?;
    Ok(())
}

/// The images of the strip, with their numbers.
fn top_pictures(members: &Members, bag: &BagExplanation, top: usize) -> Result<Vec<(usize, Picture)>> {
    let mut pictures = Vec::new();
    members.each(&bag.top(top), &mut |number, picture| {
        pictures.push(picture.map(|picture| (number, picture)));
        true
    });
    pictures.into_iter().collect()
}

/// Which images count, the first most.
fn lines_of_bag(bag: &BagExplanation) -> Vec<String> {
    let read = bag.images.len();
    let mut lines = vec![format!("cosine {:.4} of {} images, {read} of them read", bag.cosine, bag.count)];
    let share = |image: &BagImage| image.share.map_or(String::new(), |share| format!("share {share:.3}, "));
    let ranked: Vec<&BagImage> = bag.ranked().into_iter().map(|at| &bag.images[at]).collect();
    lines.extend(ranked.iter().map(|image| {
        format!(
            "  image {}: {}by gradient {:.3}, {:+.4} of the cosine, alone {:.4}",
            image.number + 1,
            share(image),
            image.gradient_share,
            image.part,
            image.alone
        )
    }));
    lines.extend(ranked.first().map(|image| format!("image {} alone:", image.number + 1)));
    lines
}

fn lines(args: &Args, found: &Explanation, place: Option<Place>) -> Vec<String> {
    let mut lines = vec![format!("cosine {:.4}, logit {:.3}", found.cosine, found.logit)];
    if let Some(Place { place, gallery }) = place {
        lines.push(format!(
            "among {gallery} other reports it stands at place {place} for the image (by chance {:.1})",
            (gallery + 2) as f64 / 2.0
        ));
    }
    lines.push(format!("map of {}: {}", found.map.word(), found.reason));
    lines.push("token relevance, the highest 1:".into());
    for (token, value) in &found.tokens {
        lines.push(format!("  {:<20} {value:.2} {}", token, "█".repeat((value * 30.0).round() as usize)));
    }
    let shows = |relevance: &str| match found.map {
        MapKind::Patches => "how alike each place is to the text".into(),
        MapKind::Relevance => format!("{relevance}: gradient × attention"),
    };
    let drawn = [
        ("picture", &args.out, "what raises the similarity"),
        ("strip", &args.strip, "what raises the similarity of all images together"),
    ];
    let drawn = drawn.into_iter().filter_map(|(what, path, relevance)| Some((what, path.as_ref()?, relevance)));
    lines.extend(drawn.map(|(what, path, relevance)| format!("{what}: {} ({})", path.display(), shows(relevance))));
    lines
}
