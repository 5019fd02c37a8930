//! Making an index in a folder, a shard at a time: after a kill the same command goes on, and several ranks share the
//! shards.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;

use super::approximate;
use super::build::IndexModel;
use super::content::ShardContent;
use super::folder::{List, MOST_SHARD_ROWS, Record};
use super::gallery::Side;
use super::items::{IndexContents, Items, source};
use super::late::Codes;
use super::shard::{self, Shard, ShardFormat};
use super::source::IndexSource;
use crate::data::READERS;
use crate::digest::{ContentHash, Depth};
use crate::dist::Collective;
use crate::error::Interrupted;
use crate::fs::{FolderLock, LOCK, holds_others};
use crate::session::{Encoder, Keep, Session, Tokenized, model_content, warn_cut};
use crate::track::Counted;

/// How an index is kept in a folder.
#[derive(Clone, Copy, Debug)]
pub struct FolderOptions {
    /// In what files.
    pub format: ShardFormat,
    /// Rows of a shard; whole batches of them are taken.
    pub shard_rows: usize,
    /// Whether names of images, which may be names of patients, are kept.
    pub keep_names: bool,
    /// Whether patches of images and tokens of texts are kept beside the rows' vectors; in safetensors only.
    pub late: bool,
    /// Whether shards of another model or of other options are thrown away.
    pub force: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Rows of images.
    pub images: usize,
    /// Rows of texts.
    pub texts: usize,
    /// Shards of the index.
    pub shards: usize,
    /// Shards that were there already, made from the same.
    pub kept: usize,
}

/// Writes the index of `contents` by `model` into the folder `out`. Shards that are there and were made from the same
/// rows, images, model and options are kept. The memory that it takes does not grow with the number of images, but for
/// the manifest's rows.
///
/// # Errors
/// As [`super::build()`]; the folder holds something else; [`Interrupted`] once `stop` says so. Where the first shard
/// cannot be made, a folder that was not there before is taken away.
pub fn fill(
    (contents, out): (&IndexContents, &Path),
    model: IndexModel,
    options: FolderOptions,
    world: &dyn Collective,
    stop: &dyn Fn() -> bool,
) -> Result<Filled> {
    let items = Items::read(contents, model.name, out, options.keep_names)?;
    // One of a host fetches a model of the hub; the others find it then.
    let session = world.in_turn(|| Session::open_on(model.name, model.device, world.local()))?;
    let session = session.in_precision(model.precision);
    let mut source = source(contents, model.name);
    (source.precision, source.model_content) = (session.precision(), model_content(model.name)?);
    let shard_rows = options.shard_rows.next_multiple_of(model.batch_size).min(MOST_SHARD_ROWS);
    let mut list = List {
        fingerprint: fingerprint(&source, model.batch_size, shard_rows, options),
        complete: false,
        format: options.format,
        shard_rows,
        images: items.image_count(),
        texts: items.text_count(),
        records: Vec::new(),
        contents: Vec::new(),
        keeps_names: options.keep_names,
        late: options.late,
        source,
        is_as_written: true,
    };
    agree(world, &items, &list)?;
    let is_new = !out.exists();
    // The others begin when the first one has made room.
    let _held = if world.is_first() { Some(begin(out, &list, options.force)?) } else { None };
    world.gather_bytes(&[])?;
    let encoder = session.encoder(model.batch_size)?;
    let own: Vec<usize> = (0..list.shards()).filter(|number| number % world.size() == world.rank()).collect();
    let count = |number: &usize| list.counts(*number).0 + list.counts(*number).1;
    let progress = Counted::start("embeddings", own.iter().map(count).sum(), world.is_first());
    let mut filling =
        Filling { folder: out, list: &list, items: &items, encoder: &encoder, texts: 0, cut: 0, progress };
    let (mut kept, mut done) = (0, 0);
    for &number in &own {
        if stop() {
            break;
        }
        let is_kept = filling.shard(number).inspect_err(|_| {
            if is_new && done == 0 && world.size() == 1 {
                unmake(out);
            }
        })?;
        kept += u32::from(is_kept);
        done += 1;
    }
    let (texts, cut) = (filling.texts, filling.cut);
    drop(filling);
    // What the ranks agree on: how many shards each has, and how many texts were cut.
    let (told, _) = world.gather_numbers(&[done, kept, texts, cut])?;
    let (each, _) = told.as_chunks::<4>();
    let [done, kept, texts, cut] = each.iter().fold([0u32; 4], |all, own| std::array::from_fn(|i| all[i] + own[i]));
    warn_cut(encoder.tokenizer, "texts", (cut as usize, texts as usize));
    ensure!(
        done as usize == list.shards(),
        Interrupted(format!(
            "stopped, as asked, with {done} of {} shards in {}; the same command goes on with the others",
            list.shards(),
            out.display()
        ))
    );
    world.from_first(|| {
        shard::remove_from(out, list.shards())?;
        approximate::remove_beyond(out, list.shard_rows, [list.images, list.texts])?;
        let told = (0..list.shards()).map(|number| Record::told(out, number)).collect::<Result<Vec<_>>>()?;
        (list.records, list.contents) = told.into_iter().unzip();
        list.complete = true;
        list.write(out)
    })?;
    Ok(Filled { images: list.images, texts: list.texts, shards: list.shards(), kept: kept as usize })
}

/// Makes sure that all ranks are about to write the same.
fn agree(world: &dyn Collective, items: &Items, list: &List) -> Result<()> {
    if world.size() == 1 {
        return Ok(());
    }
    let told = world.gather_bytes(format!("{}{}", list.fingerprint, items.digest()).as_bytes())?;
    let other = told.iter().position(|other| *other != told[0]);
    ensure!(
        other.is_none(),
        "{} has other rows, options or another model than {}; give all processes the same",
        world.name(other.unwrap_or_default()),
        world.name(0)
    );
    Ok(())
}

/// Of what makes every number of a shard, but for its rows: those are compared one by one.
fn fingerprint(source: &IndexSource, batch_size: usize, shard_rows: usize, options: FolderOptions) -> String {
    let mut hash = ContentHash::default();
    // A repository that has no commit is known by its name alone.
    hash.field(source.model_content.as_deref().unwrap_or(&source.model));
    hash.field(source.precision.word());
    hash.field(READERS.to_le_bytes());
    hash.field(options.format.word());
    hash.field([u8::from(options.keep_names)]);
    hash.field((batch_size as u64).to_le_bytes());
    hash.field((shard_rows as u64).to_le_bytes());
    // Folders of older programs are the same as before.
    if options.late {
        hash.field("late");
    }
    hash.hex()
}

/// Of the manifest's lines, where `format` writes them.
fn digest_of(format: ShardFormat, lines: &[u64]) -> Option<String> {
    if format == ShardFormat::Safetensors || lines.is_empty() {
        return None;
    }
    let mut hash = ContentHash::default();
    lines.iter().for_each(|line| hash.field(line.to_le_bytes()));
    Some(hash.hex())
}

/// What a kill leaves of the first list.
const BEGUN: &str = ".index.json.tmp";

/// Takes the folder, and says in it that it is being filled.
fn begin(out: &Path, list: &List, force: bool) -> Result<FolderLock> {
    let place = || format!("--out {}", out.display());
    if !out.exists() {
        fs::create_dir(out).with_context(place)?;
    }
    let before = List::read(out).with_context(place)?;
    let is_ours = before.is_some() || !holds_others(out, &[LOCK, BEGUN]);
    let was_ours = !is_ours && out.join(shard::ROWS).is_dir();
    ensure!(
        !was_ours,
        "--out {}: its index.json is gone; name a new folder, or remove this one if it was an index",
        out.display()
    );
    ensure!(is_ours, "--out {}: holds other files, and no index; name a new folder", out.display());
    let held = FolderLock::take(out)?;
    match before.filter(|before| before.fingerprint != list.fingerprint) {
        Some(before) if !force => bail!(
            "--out {}: holds an index of {}, whose model or options were others, or another version of this program \
             made it; --force throws it away, or name another folder",
            out.display(),
            before.source.model
        ),
        Some(_) => {
            shard::remove_from(out, 0)?;
            approximate::remove_beyond(out, list.shard_rows, [0, 0])?;
        }
        None => {}
    }
    // After the work is done would be late.
    for path in (0..list.shards()).flat_map(|number| list.files(out, number)) {
        ensure!(
            !path.is_dir(),
            "{}: is a folder where a shard's file is to lie; remove it, or name another folder",
            path.display()
        );
    }
    list.access().make_folder(out).with_context(place)?;
    // First, so that a kill leaves a folder that is known as an index.
    list.write(out)?;
    shard::make_folders(out, list.format, list.access())?;
    Ok(held)
}

/// Takes away a folder in which no shard was made, and which this call has made: no other file is touched, and a folder
/// that holds one stays.
fn unmake(out: &Path) {
    drop(shard::remove_from(out, 0));
    drop(List::remove(out));
    drop(fs::remove_file(out.join(LOCK)));
    drop(fs::remove_dir(out));
}

/// The shards of one rank.
struct Filling<'a> {
    folder: &'a Path,
    list: &'a List,
    items: &'a Items,
    encoder: &'a Encoder<'a>,
    /// Texts that were encoded, and those of them whose ends the model does not read.
    texts: u32,
    cut: u32,
    progress: Counted,
}

impl Filling<'_> {
    /// Makes a shard, or says that it is there already.
    fn shard(&mut self, number: usize) -> Result<bool> {
        let (range, counts) = (self.list.range(number), self.list.counts(number));
        let (at, lines) = ((self.list.format, number), self.items.manifest_lines(range.clone()));
        let mut record = Record {
            fingerprint: self.list.fingerprint.clone(),
            origins: self.items.origins(range.clone()),
            lines: digest_of(at.0, &lines),
            content: None,
        };
        // Too long a one is told of before the work is done.
        record.bytes()?;
        let files = self.list.files(self.folder, number);
        let before = Record::read(self.folder, number).ok();
        let is_same = before.is_some_and(|mut before| {
            let content = before.content.take();
            // The shard is read only where it is of these rows.
            before == record && content.is_some_and(|content| content.check(&files, Depth::Whole).is_ok())
        });
        if is_same && shard::is_whole(self.folder, at, counts) {
            self.progress.add(counts.0 + counts.1);
            return Ok(true);
        }
        // Whoever finds the record finds the embeddings that it is of.
        Record::remove(self.folder, number)?;
        let mut late = Vec::new();
        let images = self.items.images(range.clone());
        let images = self.encode(&images, (Side::Images, &mut late), |encoder, images, keep| match keep {
            Some(keep) => encoder.images_with_patches(images, keep),
            None => encoder.images(images),
        })?;
        let texts = Tokenized::of(self.encoder.tokenizer, &self.items.texts(range.clone())?)?;
        self.texts += texts.ids.len() as u32;
        self.cut += texts.cut as u32;
        let texts = self.encode(&texts.ids, (Side::Texts, &mut late), |encoder, ids, keep| match keep {
            Some(keep) => encoder.ids_with_tokens(ids, keep),
            None => encoder.texts_of_ids(ids),
        })?;
        let shard = Shard { first: range.start, images, texts, late, origins: &record.origins, lines };
        let access = self.list.access();
        shard::write(self.folder, at, shard, access)?;
        record.content = Some(ShardContent::of(&files)?);
        Record::write(&record.bytes()?, self.folder, number, access)?;
        Ok(false)
    }

    /// Whole batches at a time, to tell how far it has come. Of a late index, adds patches or tokens to `late`.
    fn encode<T>(
        &mut self,
        all: &[T],
        (side, late): (Side, &mut Vec<(Side, Codes)>),
        embeds: impl Fn(&Encoder, &[T], Option<Keep>) -> Result<Tensor>,
    ) -> Result<Option<Tensor>> {
        /// Most bytes of patches or tokens that are held at once: 8 GiB.
        const MOST_LATE: usize = 8 << 30;
        /// Batches between two looks at the progress.
        const BATCHES: usize = 16;
        let (mut rows, mut done, mut codes) = (Vec::new(), 0, Codes::of_width(self.encoder.model.embed_dim()));
        let batch_size = self.encoder.batch_size;
        for some in all.chunks(BATCHES * batch_size) {
            let mut keep = |vectors: &[f32]| codes.push(vectors);
            rows.push(embeds(self.encoder, some, if self.list.late { Some(&mut keep) } else { None })?);
            self.progress.add(some.len());
            done += some.len();
            // The first rows tell before the work what is far too much; then what there is counts, as rows differ.
            let looked_at = if rows.len() == 1 { all.len() } else { done };
            ensure!(
                !codes.are_too_many(done, looked_at, MOST_LATE),
                "the vectors of {} of a shard of {} rows take more than {} GiB, by the first {done} of them; name \
                 --shard-rows {} or fewer",
                side.parts_word(),
                all.len(),
                MOST_LATE >> 30,
                // Of whole batches.
                (codes.rows_within(done, MOST_LATE) / batch_size * batch_size).max(batch_size)
            );
            codes.reserve(done, all.len(), MOST_LATE);
        }
        if rows.is_empty() {
            return Ok(None);
        }
        if self.list.late {
            late.push((side, codes));
        }
        Ok(Some(Tensor::cat(&rows, 0)?))
    }
}
