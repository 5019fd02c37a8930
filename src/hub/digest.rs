//! Whether content is what the Hub names it by: SHA-256 for large files, for small ones the SHA-1 that git gives a
//! blob.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::cache::is_commit;
use crate::digest::{is_sha256, sha256_of};

/// Whether a file's content has this ETag; `true` also for one that is no digest, which other servers than the Hub
/// give.
pub(super) fn has_etag(path: &Path, etag: &str) -> io::Result<bool> {
    if is_sha256(etag) {
        return Ok(sha256_of(path)? == etag);
    }
    // git names blobs as it names commits.
    if is_commit(etag) {
        let mut file = File::open(path)?;
        let head = format!("blob {}\0", file.metadata()?.len());
        return Ok(sha1(head.as_bytes().chain(&mut file))? == etag);
    }
    Ok(true)
}

/// SHA-1 (FIPS 180-4) in hex digits. Nobody is to be kept out by it: git names contents so.
fn sha1(mut content: impl Read) -> io::Result<String> {
    let mut state = [0x6745_2301u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let (mut length, mut rest, mut buffer) = (0u64, Vec::new(), vec![0; 1 << 16]);
    loop {
        let count = content.read(&mut buffer)?;
        length += count as u64;
        rest.extend_from_slice(&buffer[..count]);
        if count == 0 {
            rest.push(0x80);
            rest.resize((rest.len() + 8).next_multiple_of(64) - 8, 0);
            rest.extend_from_slice(&(8 * length).to_be_bytes());
        }
        let (blocks, after) = rest.as_chunks::<64>();
        blocks.iter().for_each(|block| sha1_block(&mut state, block));
        rest = after.to_vec();
        if count == 0 {
            return Ok(state.iter().map(|word| format!("{word:08x}")).collect());
        }
    }
}

fn sha1_block(state: &mut [u32; 5], block: &[u8; 64]) {
    let mut words = [0u32; 80];
    let (quads, _) = block.as_chunks::<4>();
    words.iter_mut().zip(quads).for_each(|(word, quad)| *word = u32::from_be_bytes(*quad));
    for i in 16..80 {
        words[i] = (words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16]).rotate_left(1);
    }
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for (i, word) in words.into_iter().enumerate() {
        let (mixed, constant) = match i / 20 {
            0 => ((b & c) | (!b & d), 0x5a82_7999u32),
            1 => (b ^ c ^ d, 0x6ed9_eba1),
            2 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
            _ => (b ^ c ^ d, 0xca62_c1d6),
        };
        let next = a.rotate_left(5).wrapping_add(mixed).wrapping_add(e).wrapping_add(constant).wrapping_add(word);
        (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
    }
    state.iter_mut().zip([a, b, c, d, e]).for_each(|(all, part)| *all = all.wrapping_add(part));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of FIPS 180-4, and of git: `git hash-object` of "hello\n".
    #[test]
    fn digests_are_known_ones() {
        assert_eq!(sha1(&b"abc"[..]).unwrap(), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(sha1(&b""[..]).unwrap(), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        let million = io::repeat(b'a').take(1_000_000);
        assert_eq!(sha1(million).unwrap(), "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hello");
        std::fs::write(&path, "hello\n").unwrap();
        assert!(has_etag(&path, "ce013625030ba8dba906f756967f9e9ca394464a").unwrap());
        assert!(!has_etag(&path, "ce013625030ba8dba906f756967f9e9ca394464b").unwrap());
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert!(has_etag(&path, sha256).unwrap() && !has_etag(&path, &sha256.replace('5', "6")).unwrap());
        assert!(has_etag(&path, "etag-1").unwrap());
    }
}
