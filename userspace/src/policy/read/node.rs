//! A place in a document, and how fields are taken from it: strictly, with every
//! flaw noted under the field's path.

use std::collections::BTreeMap;

use super::{Flaw, tree::Tree};

/// A place in a document.
#[derive(Clone, Debug)]
pub(super) struct Node<'t> {
    pub(super) tree: &'t Tree,
    pub(super) path: String,
}

/// The fields at a place.
#[derive(Debug)]
pub(super) struct Fields<'t> {
    map: Option<&'t BTreeMap<String, Tree>>,
    path: String,
}

/// Notes flaws.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) flaws: Vec<Flaw>,
}

/// The path of a field below another path.
pub(super) fn below(path: &str, field: &str) -> String {
    if path.is_empty() {
        return field.to_owned();
    }
    format!("{path}.{field}")
}

/// The path of a label.
pub(super) fn at_label(path: &str, key: &str) -> String {
    format!("{path}[\"{key}\"]")
}

impl<'t> Fields<'t> {
    /// The field of that name, if it is there and not null.
    pub(super) fn get(&self, field: &str) -> Option<Node<'t>> {
        let tree = self.map?.get(field)?;
        (*tree != Tree::Null).then(|| Node {
            tree,
            path: below(&self.path, field),
        })
    }

    /// The path of the field of that name, there or not.
    pub(super) fn path_of(&self, field: &str) -> String {
        below(&self.path, field)
    }
}

impl Reader {
    /// Notes a flaw.
    pub(super) fn flaw(&mut self, path: &str, what: impl Into<String>) {
        self.flaws.push(Flaw {
            path: path.to_owned(),
            what: what.into(),
        });
    }

    fn mistaken(&mut self, node: &Node<'_>, wanted: &str) {
        self.flaw(
            &node.path,
            format!("is {}, but must be {wanted}", node.tree.what()),
        );
    }

    /// The fields at a place, all of which must be `known`.
    pub(super) fn fields<'t>(&mut self, node: &Node<'t>, known: &[&str]) -> Fields<'t> {
        let fields = self.all_fields(node);
        for field in fields.map.into_iter().flat_map(BTreeMap::keys) {
            if !known.contains(&field.as_str()) {
                let what = match similar(field, known) {
                    Some(meant) => format!("there is no such field; {meant} may be meant"),
                    None => format!("there is no such field; there are {}", known.join(", ")),
                };
                self.flaw(&below(&node.path, field), what);
            }
        }
        fields
    }

    /// The field of that name, which must be there; `hint` says what to do if not.
    pub(super) fn required<'t>(
        &mut self,
        fields: &Fields<'t>,
        field: &str,
        hint: &str,
    ) -> Option<Node<'t>> {
        let node = fields.get(field);
        if node.is_none() {
            self.flaw(&fields.path_of(field), format!("is missing; {hint}"));
        }
        node
    }

    /// The fields at a place, whatever they are called.
    pub(super) fn all_fields<'t>(&mut self, node: &Node<'t>) -> Fields<'t> {
        let map = match node.tree {
            Tree::Map(map) => Some(map),
            // As an API server has it: null is as good as nothing in it.
            Tree::Null => None,
            _ => {
                self.mistaken(node, "a map");
                None
            }
        };
        Fields {
            map,
            path: node.path.clone(),
        }
    }

    /// What is listed at a place.
    pub(super) fn list<'t>(&mut self, node: &Node<'t>) -> Vec<Node<'t>> {
        let Tree::List(items) = node.tree else {
            self.mistaken(node, "a list: begin each item with `- `");
            return Vec::new();
        };
        let item = |(index, tree): (usize, &'t Tree)| Node {
            tree,
            path: format!("{}[{index}]", node.path),
        };
        items.iter().enumerate().map(item).collect()
    }

    /// The text at a place.
    pub(super) fn text(&mut self, node: &Node<'_>) -> String {
        match node.tree {
            Tree::Text(text) => text.clone(),
            Tree::Null => String::new(),
            Tree::Integer(_) | Tree::Number(_) | Tree::Bool(_) => {
                self.mistaken(node, "text: put it in quotes");
                String::new()
            }
            _ => {
                self.mistaken(node, "text");
                String::new()
            }
        }
    }

    /// The number at a place.
    pub(super) fn port_number(&mut self, node: &Node<'_>) -> Option<u16> {
        match node.tree {
            Tree::Integer(number) => {
                let port = u16::try_from(*number).ok().filter(|port| *port > 0);
                if port.is_none() {
                    self.flaw(&node.path, format!("is {number}, but a port is 1 to 65535"));
                }
                port
            }
            Tree::Number(_) => {
                self.mistaken(node, "a plain decimal number");
                None
            }
            _ => {
                self.mistaken(node, "a number, without quotes");
                None
            }
        }
    }

    /// Names and their texts at a place.
    pub(super) fn texts(&mut self, node: &Node<'_>) -> BTreeMap<String, String> {
        let fields = self.all_fields(node);
        let mut texts = BTreeMap::new();
        for (key, tree) in fields.map.into_iter().flatten() {
            let path = at_label(&node.path, key);
            texts.insert(key.clone(), self.text(&Node { tree, path }));
        }
        texts
    }
}

/// The one among `known` that is most like what was written, if any is.
fn similar<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    let distance = |known: &&str| distance(&written.to_lowercase(), &known.to_lowercase());
    let best = known.iter().min_by_key(|known| distance(known))?;
    (distance(best) <= 2).then_some(*best)
}

/// How many letters are to be changed, added or left out.
fn distance(a: &str, b: &str) -> usize {
    const ENOUGH: usize = 64;
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().max(b.len()) > ENOUGH {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}
