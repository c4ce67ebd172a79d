//! No function is longer than a screen: what does not fit is more than one idea.

use anyhow::{Context, Result};
use syn::{Block, ImplItemFn, ItemFn, Signature, TraitItemFn, spanned::Spanned as _, visit::Visit};

use super::files::File;

/// Lines from the signature to the closing brace.
const LIMIT: usize = 70;

/// Functions that are too long.
pub(super) fn check(files: &[File]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let parsed =
            syn::parse_file(&file.text).with_context(|| format!("parsing {}", file.path))?;
        let mut functions = Functions::default();
        functions.visit_file(&parsed);
        let too_long = functions
            .all
            .iter()
            .filter(|function| function.lines > LIMIT);
        found.extend(too_long.map(|function| {
            let Function { name, first, lines } = function;
            format!(
                "{}:{first}: {name} has {lines} lines, at most {LIMIT} are allowed",
                file.path
            )
        }));
    }
    Ok(found)
}

#[derive(Debug)]
struct Function {
    name: String,
    first: usize,
    lines: usize,
}

#[derive(Debug, Default)]
struct Functions {
    all: Vec<Function>,
}

impl Functions {
    fn note(&mut self, signature: &Signature, body: &Block) {
        let first = signature.span().start().line;
        let last = body.span().end().line;
        self.all.push(Function {
            name: signature.ident.to_string(),
            first,
            lines: last - first + 1,
        });
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.note(&function.sig, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.note(&function.sig, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        if let Some(body) = &function.default {
            self.note(&function.sig, body);
        }
        syn::visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::{File, LIMIT, check};

    fn function_of(lines: usize) -> File {
        let body = "    let _ = 0;\n".repeat(lines - 2);
        let text = format!("/// Docs.\n#[inline]\nfn long() {{\n{body}}}\n");
        File {
            path: "a.rs".to_owned(),
            text,
        }
    }

    #[test]
    fn the_limit_itself_is_allowed() {
        assert!(check(&[function_of(LIMIT)]).unwrap().is_empty());
        let found = check(&[function_of(LIMIT + 1)]).unwrap();
        assert_eq!(found, ["a.rs:3: long has 71 lines, at most 70 are allowed"]);
    }

    #[test]
    fn methods_and_inner_functions_count() {
        let body = "\n".repeat(LIMIT);
        let text = format!(
            "impl A {{ fn a() {{ fn b() {{{body}}} }} }}\ntrait T {{ fn c() {{{body}}} fn d(); }}"
        );
        let found = check(&[File {
            path: "a.rs".to_owned(),
            text,
        }])
        .unwrap();
        assert_eq!(found.len(), 3);
    }
}
