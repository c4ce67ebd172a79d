//! Text that many objects have in common, kept once: in a large cluster the same
//! names and labels are on thousands of endpoints.

use std::{
    collections::{BTreeMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text whose copies share its memory.
pub type Word = Arc<str>;

/// Labels in the order of their keys, each key once. Copies share their memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<[(Word, Word)]>);

impl Labels {
    /// The value of the label with that key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let place = self.0.binary_search_by(|(found, _)| (**found).cmp(key));
        place.ok().map(|place| &*self.0[place].1)
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<Word>, V: Into<Word>> FromIterator<(K, V)> for Labels {
    /// Of values for the same key, the last one counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        let labels = labels.into_iter();
        let labels: BTreeMap<Word, Word> = labels.map(|(k, v)| (k.into(), v.into())).collect();
        Self(labels.into_iter().collect())
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(labels: BTreeMap<String, String>) -> Self {
        labels.into_iter().collect()
    }
}

impl From<&Labels> for BTreeMap<String, String> {
    fn from(labels: &Labels) -> Self {
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        labels.iter().map(owned).collect()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let labels = BTreeMap::<Word, Word>::deserialize(deserializer)?;
        Ok(Self(labels.into_iter().collect()))
    }
}

/// Keeps one copy of everything it is shown.
#[derive(Debug, Default)]
pub struct Words {
    words: Kept<Word>,
    labels: Kept<Labels>,
}

impl Words {
    /// Has `word` share its memory with those like it that were seen before.
    pub fn share(&mut self, word: &mut Word) {
        self.words.share(word, Arc::strong_count);
    }

    /// As [`Self::share`], for labels and what they are made of.
    pub fn share_labels(&mut self, labels: &mut Labels) {
        if self.labels.adopt(labels) {
            return;
        }
        let mut words: Vec<(Word, Word)> = labels.0.to_vec();
        for (key, value) in &mut words {
            self.share(key);
            self.share(value);
        }
        *labels = Labels(words.into());
        self.labels
            .share(labels, |labels| Arc::strong_count(&labels.0));
    }
}

/// Values of which there is one copy each.
#[derive(Debug)]
struct Kept<T> {
    values: HashSet<T>,
    /// How many there may be before those are looked for that nobody else has.
    enough: usize,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            values: HashSet::new(),
            enough: Self::FEW,
        }
    }
}

impl<T> Kept<T> {
    /// Up to how many are kept without looking who else has them.
    const FEW: usize = 1024;
}

impl<T: Clone + Eq + Hash> Kept<T> {
    /// Makes `value` the copy that is kept, if there is one.
    fn adopt(&self, value: &mut T) -> bool {
        let Some(kept) = self.values.get(value) else {
            return false;
        };
        *value = kept.clone();
        true
    }

    /// Makes `value` the copy that is kept, or keeps it. `owners` counts who has a
    /// value: the cost of asking is spread over as many additions.
    fn share(&mut self, value: &mut T, owners: impl Fn(&T) -> usize) {
        if self.adopt(value) {
            return;
        }
        if self.values.len() >= self.enough {
            self.values.retain(|kept| owners(kept) > 1);
            self.enough = (2 * self.values.len()).max(Self::FEW);
        }
        self.values.insert(value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_by_their_keys() {
        let labels: Labels = [("tier", "web"), ("app", "shop"), ("app", "cart")]
            .into_iter()
            .collect();
        assert_eq!(labels.get("app"), Some("cart"));
        assert_eq!(labels.get("tier"), Some("web"));
        assert_eq!(labels.get("tie"), None);
        assert_eq!(labels.len(), 2);
    }

    #[test]
    fn labels_are_a_json_object() {
        let json = r#"{"app":"shop","tier":"web"}"#;
        let labels: Labels = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&labels).unwrap(), json);
    }

    #[test]
    fn what_is_the_same_is_kept_once() {
        let mut words = Words::default();
        let made = || [("app", "shop")].into_iter().collect::<Labels>();
        let (mut one, mut other) = (made(), made());
        words.share_labels(&mut one);
        words.share_labels(&mut other);
        assert!(Arc::ptr_eq(&one.0, &other.0));
        let mut word = Word::from("shop");
        words.share(&mut word);
        assert!(Arc::ptr_eq(&word, &one.0[0].1));
    }

    #[test]
    fn what_nobody_has_any_more_is_forgotten() {
        let mut words = Words::default();
        for number in 0..100_000 {
            words.share(&mut Word::from(number.to_string()));
        }
        assert!(words.words.values.len() <= Kept::<Word>::FEW);
    }
}
