//! What rkyv serialises is accepted, whatever its size.

use super::crafted::Indexed;
use messageport::{MessageChannel, MessageEvent, Post};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Posts a value and looks at what came.
fn through<T: Post>(channel: &MessageChannel, value: &T, look: impl FnOnce(&MessageEvent<'_>)) {
    channel.port1.post_message(value).expect("room");
    look(&channel.port2.recv().expect("a message"));
}

#[test]
fn tables_of_every_size_are_accepted() {
    let channel = MessageChannel::new().expect("a channel");
    for size in 0u32..=600 {
        let map: HashMap<u32, u32> = (0..size).map(|key| (key.wrapping_mul(77), key)).collect();
        through(&channel, &map, |event| {
            let found = event.data::<HashMap<u32, u32>>().expect("an honest map");
            assert_eq!(found.len(), size as usize);
            for (key, value) in &map {
                assert_eq!(found.get(&(*key).into()), Some(&(*value).into()));
            }
            for absent in 0..50 {
                assert!(found.get(&(absent * 77 + 1).into()).is_none());
            }
            assert_eq!(event.deserialize::<HashMap<u32, u32>>().unwrap(), map);
        });
    }
}

#[test]
fn tables_of_strings_of_every_size_are_accepted() {
    let channel = MessageChannel::new().expect("a channel");
    for size in 0..=600usize {
        let set: HashSet<String> = (0..size).map(|key| format!("key {key}")).collect();
        through(&channel, &set, |event| {
            let found = event.data::<HashSet<String>>().expect("an honest set");
            assert!(set.iter().all(|key| found.contains(key.as_str())));
            assert!((0..20).all(|key| !found.contains(format!("no key {key}").as_str())));
        });
        let entries = (0..size).map(|key| (format!("key {key}"), key as u64)).collect();
        through(&channel, &Indexed(entries), |event| {
            let found = event.data::<Indexed>().expect("an honest index map");
            for key in 0..size {
                let index = found.get_index_of(format!("key {key}").as_str());
                assert_eq!(index, Some(key));
            }
            assert!(found.get_index_of("no key").is_none());
        });
    }
}

#[test]
fn trees_of_every_size_are_accepted() {
    let channel = MessageChannel::new().expect("a channel");
    for size in 0..=600u32 {
        let map: BTreeMap<String, u32> = (0..size).map(|key| (format!("{key}"), key)).collect();
        through(&channel, &map, |event| {
            let found = event.data::<BTreeMap<String, u32>>().expect("an honest tree");
            let pairs = found.iter().map(|(key, value)| (key.as_str(), value.to_native()));
            assert!(pairs.eq(map.iter().map(|(key, value)| (key.as_str(), *value))));
            assert!(map.keys().all(|key| found.contains_key(key.as_str())));
            assert!(!found.contains_key("no key"));
            assert_eq!(event.deserialize::<BTreeMap<String, u32>>().unwrap(), map);
        });
    }
    let set: BTreeSet<u64> = (0..100_000).collect();
    through(&channel, &set, |event| {
        let found = event.data::<BTreeSet<u64>>().expect("an honest tree");
        assert!(found.iter().map(|key| key.to_native()).eq(0..100_000));
    });
}
