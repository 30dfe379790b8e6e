//! What the fuzzer runs on this layer: bytes of a stranger, before anything is done for them.

use crate::wire::frame::{
    Capsule, Hello, ManifestEntry, MemberHello, decode_packet, encode_packet,
};

/// Has each decoder look at the same bytes. What one accepts is what its encoder writes.
pub fn frames(data: &[u8]) {
    let _ = accepted_kinds(data);
}

/// Which decoders take the bytes, one bit each: packet, port inside of it, pool inside of it,
/// capsule, hello, refusal, member hello.
fn accepted_kinds(data: &[u8]) -> u32 {
    let packet = decode_packet(data).map_or(0, |(sequence, entries)| {
        assert_eq!(encode_packet(sequence, &entries), data, "another packet");
        let descriptors: usize = entries.iter().map(ManifestEntry::descriptors).sum();
        assert!((1..=3 * 64).contains(&descriptors), "{descriptors} descriptors");
        entries.iter().fold(1, |kinds, entry| match entry {
            ManifestEntry::Port(capsule) if is_capsule(&**capsule) => kinds | 2,
            ManifestEntry::Pool(_) => kinds | 4,
            _ => kinds,
        })
    });
    let capsule = if is_capsule(data) { 8 } else { 0 };
    let hello = Hello::decode(data).map_or(0, |(hello, is_refusal)| {
        assert_eq!(hello.encode(is_refusal), data, "another hello");
        if is_refusal { 32 } else { 16 }
    });
    let member_hello = MemberHello::decode(data).map_or(0, |(member_hello, rest)| {
        assert_eq!([&member_hello.encode(), rest].concat(), data, "another member hello");
        let _ = is_capsule(rest);
        64
    });
    packet | capsule | hello | member_hello
}

fn is_capsule(bytes: &[u8]) -> bool {
    let Ok(capsule) = Capsule::decode(bytes) else { return false };
    assert!(capsule.side < 2);
    // Not byte by byte: what is no promise of trust is written as none.
    assert_eq!(Capsule::decode(&capsule.encode()), Ok(capsule));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn corpus() -> Vec<Vec<u8>> {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/frames");
        let files = std::fs::read_dir(corpus).into_iter().flatten();
        files.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
    }

    #[test]
    fn frames_of_the_corpus_are_of_every_kind() {
        let seeds = corpus();
        // The published crate has no corpus.
        if !seeds.is_empty() {
            assert_eq!(seeds.iter().fold(0, |kinds, seed| kinds | accepted_kinds(seed)), 127);
        }
    }

    #[test]
    fn frames_that_are_cut_or_changed_do_no_harm() {
        for seed in corpus() {
            for at in 0..seed.len().min(700) {
                frames(&seed[..at]);
                let mut changed = seed.clone();
                for byte in [0, 1, 0x80, 0xff] {
                    changed[at] ^= byte;
                    frames(&changed);
                    changed[at] = seed[at];
                }
            }
        }
    }

    proptest! {
        #[test]
        fn frames_of_random_bytes_do_no_harm(data: Vec<u8>) {
            frames(&data);
        }
    }
}
