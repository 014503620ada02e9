//! The text preprocessor of the shaders.
//!
//! Lines that start with `#` (after blanks) are directives; `${..}` is replaced in every other
//! line. Everything is an integer expression over the definitions (`== != < <= > >= && || ! + - * /
//! % ( )`, truth is non-zero), except that `${NAME}` alone may also name a text.
//!
//! ```text
//! #include "lib/reduce.wgsl"      once per shader, however often; ${..} is replaced here too
//! #if WG > 64 && SUBGROUP         #elif, #else, #endif
//! #for i in 0..N                  unrolls; ${i} is the counter; #endfor
//! const TILE = ${BM * 2}u;
//! ```

use std::{borrow::Cow, collections::HashSet, fmt};

/// Value of a definition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Def {
    /// Usable in expressions.
    Int(i64),
    /// Usable as `${NAME}` only.
    Text(Cow<'static, str>),
}

impl fmt::Display for Def {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Def::Int(n) => write!(f, "{n}"),
            Def::Text(t) => f.write_str(t),
        }
    }
}

/// What is wrong with a shader text, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {why}")]
pub(crate) struct TemplateError {
    pub file: String,
    pub line: usize,
    pub why: String,
}

/// Definitions, the innermost last.
pub(crate) type Defs = Vec<(Cow<'static, str>, Def)>;

/// Renders `file`, whose text and whose includes `source` knows.
pub(crate) fn render(
    file: &str,
    defs: &[(Cow<'static, str>, Def)],
    source: &dyn Fn(&str) -> Option<&'static str>,
) -> Result<String, TemplateError> {
    let mut r = Renderer {
        source,
        defs: defs.to_vec(),
        included: HashSet::new(),
        out: String::new(),
    };
    r.file(file).map_err(|(file, line, why)| TemplateError {
        file,
        line: line + 1,
        why,
    })?;
    Ok(r.out)
}

/// File, line from 0, reason.
type Fail = (String, usize, String);

struct Renderer<'a> {
    source: &'a dyn Fn(&str) -> Option<&'static str>,
    defs: Defs,
    included: HashSet<String>,
    out: String,
}

/// A line split into directive and rest.
fn directive(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let rest = line.strip_prefix('#')?;
    let end = rest
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    Some((&rest[..end], rest[end..].trim()))
}

impl Renderer<'_> {
    fn file(&mut self, name: &str) -> Result<(), Fail> {
        if !self.included.insert(name.to_owned()) {
            return Ok(());
        }
        let fail = |line, why: &str| (name.to_owned(), line, why.to_owned());
        let text = (self.source)(name).ok_or_else(|| fail(0, "no such shader file"))?;
        let lines: Vec<&str> = text.lines().collect();
        let end = self.lines(name, &lines, 0, &[])?;
        match lines.get(end) {
            None => Ok(()),
            Some(stray) => Err(fail(
                end,
                &format!("{} without its beginning", stray.trim()),
            )),
        }
    }

    /// Emits from `at` until a directive of `until` (returned) or the end.
    fn lines(
        &mut self,
        file: &str,
        lines: &[&str],
        mut at: usize,
        until: &[&str],
    ) -> Result<usize, Fail> {
        let fail = |line: usize, why: String| (file.to_owned(), line, why);
        while let Some(line) = lines.get(at) {
            let Some((word, rest)) = directive(line) else {
                let text = self.substitute(line).map_err(|why| fail(at, why))?;
                self.out.push_str(&text);
                self.out.push('\n');
                at += 1;
                continue;
            };
            match word {
                _ if until.contains(&word) => return Ok(at),
                "include" => {
                    let name = self.substitute(rest).map_err(|why| fail(at, why))?;
                    self.file(name.trim_matches('"'))?;
                    at += 1;
                }
                "if" => at = self.branches(file, lines, at)? + 1,
                "for" => {
                    let (name, from, to) = self.range(rest).map_err(|why| fail(at, why))?;
                    let body = at + 1;
                    let end = block_end(lines, body, &["endfor"])
                        .ok_or_else(|| fail(at, "#for without #endfor".to_owned()))?;
                    for i in from..to {
                        self.defs.push((name.clone().into(), Def::Int(i)));
                        self.lines(file, &lines[..end], body, &[])?;
                        self.defs.pop();
                    }
                    at = end + 1;
                }
                "elif" | "else" | "endif" | "endfor" => return Ok(at),
                other => return Err(fail(at, format!("unknown directive #{other}"))),
            }
        }
        Ok(at)
    }

    /// Emits the branch that holds; returns the line of `#endif`.
    fn branches(&mut self, file: &str, lines: &[&str], start: usize) -> Result<usize, Fail> {
        let fail = |line: usize, why: String| (file.to_owned(), line, why);
        let (mut at, mut done) = (start, false);
        loop {
            let (word, rest) = directive(lines[at]).unwrap_or(("endif", ""));
            let holds = match word {
                "endif" => return Ok(at),
                "else" => true,
                _ if done => false,
                _ => eval(rest, &self.defs).map_err(|why| fail(at, why))? != 0,
            };
            let body = at + 1;
            let end = block_end(lines, body, &["elif", "else", "endif"])
                .ok_or_else(|| fail(start, "#if without #endif".to_owned()))?;
            if holds && !done {
                self.lines(file, &lines[..end], body, &[])?;
                done = true;
            }
            at = end;
        }
    }

    fn range(&self, text: &str) -> Result<(String, i64, i64), String> {
        let shape = || format!("expected `#for NAME in A..B`, found {text:?}");
        let (name, range) = text.split_once(" in ").ok_or_else(shape)?;
        let (from, to) = range.split_once("..").ok_or_else(shape)?;
        Ok((
            name.trim().to_owned(),
            eval(from, &self.defs)?,
            eval(to, &self.defs)?,
        ))
    }

    fn substitute<'l>(&self, line: &'l str) -> Result<Cow<'l, str>, String> {
        if !line.contains("${") {
            return Ok(Cow::Borrowed(line));
        }
        let (mut out, mut rest) = (String::with_capacity(line.len() + 16), line);
        while let Some((before, after)) = rest.split_once("${") {
            let (inner, tail) = after.split_once('}').ok_or("${ without }")?;
            out.push_str(before);
            match find(&self.defs, inner.trim()) {
                Some(def) => out.push_str(&def.to_string()),
                None => out.push_str(&eval(inner, &self.defs)?.to_string()),
            }
            rest = tail;
        }
        out.push_str(rest);
        Ok(Cow::Owned(out))
    }
}

/// First line from `at` on with a directive of `words` that belongs to this level.
fn block_end(lines: &[&str], at: usize, words: &[&str]) -> Option<usize> {
    let mut depth = 0usize;
    for (i, line) in lines.iter().enumerate().skip(at) {
        match directive(line) {
            Some((word, _)) if depth == 0 && words.contains(&word) => return Some(i),
            Some(("if" | "for", _)) => depth += 1,
            Some(("endif" | "endfor", _)) => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

fn find<'d>(defs: &'d [(Cow<'static, str>, Def)], name: &str) -> Option<&'d Def> {
    defs.iter().rev().find(|(n, _)| n == name).map(|(_, d)| d)
}

/// Value of an integer expression.
fn eval(text: &str, defs: &[(Cow<'static, str>, Def)]) -> Result<i64, String> {
    let mut p = Parser {
        rest: text.trim(),
        defs,
    };
    let value = p.binary(0)?;
    if p.rest.is_empty() {
        Ok(value)
    } else {
        Err(format!("{:?} is left over in {text:?}", p.rest))
    }
}

struct Parser<'a> {
    rest: &'a str,
    defs: &'a [(Cow<'static, str>, Def)],
}

/// Operators with their binding power; two-character ones first.
const OPERATORS: &[(&str, u8)] = &[
    ("||", 1),
    ("&&", 2),
    ("==", 3),
    ("!=", 3),
    ("<=", 4),
    (">=", 4),
    ("<", 4),
    (">", 4),
    ("+", 5),
    ("-", 5),
    ("*", 6),
    ("/", 6),
    ("%", 6),
];

impl Parser<'_> {
    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn binary(&mut self, least: u8) -> Result<i64, String> {
        let mut a = self.unary()?;
        while let Some(&(op, power)) = OPERATORS.iter().find(|(op, _)| self.rest.starts_with(op)) {
            if power <= least {
                break;
            }
            self.eat(op);
            let b = self.binary(power)?;
            let overflow = || format!("{a} {op} {b} has no value");
            a = match op {
                "||" => i64::from(a != 0 || b != 0),
                "&&" => i64::from(a != 0 && b != 0),
                "==" => i64::from(a == b),
                "!=" => i64::from(a != b),
                "<=" => i64::from(a <= b),
                ">=" => i64::from(a >= b),
                "<" => i64::from(a < b),
                ">" => i64::from(a > b),
                "+" => a.checked_add(b).ok_or_else(overflow)?,
                "-" => a.checked_sub(b).ok_or_else(overflow)?,
                "*" => a.checked_mul(b).ok_or_else(overflow)?,
                "/" => a.checked_div(b).ok_or_else(overflow)?,
                _ => a.checked_rem(b).ok_or_else(overflow)?,
            };
        }
        Ok(a)
    }

    fn unary(&mut self) -> Result<i64, String> {
        if self.eat("!") {
            return Ok(i64::from(self.unary()? == 0));
        }
        if self.eat("-") {
            return self.unary().map(i64::wrapping_neg);
        }
        if self.eat("(") {
            let value = self.binary(0)?;
            return if self.eat(")") {
                Ok(value)
            } else {
                Err("( without )".to_owned())
            };
        }
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = self.rest.find(|c| !word(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        if token.starts_with(|c: char| c.is_ascii_digit()) {
            return token.parse().map_err(|_| format!("{token:?} is no number"));
        }
        match find(self.defs, token) {
            Some(Def::Int(n)) => Ok(*n),
            Some(Def::Text(_)) => Err(format!("{token} is a text, not a number")),
            None if token.is_empty() => Err(format!("expected a number before {:?}", self.rest)),
            None => Err(format!("{token} is not defined")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Def, render};

    fn files(name: &str) -> Option<&'static str> {
        Some(match name {
            "a" => "#include \"lib\"\n#include \"lib\"\nA ${N} ${T} ${N * 2 + 1}",
            "lib" => "lib",
            "if" => {
                "#if N == 1\none\n#elif N == 2 && !(0)\ntwo\n#if 1\nnested\n#endif\n#else\nmany\n#endif\nend"
            }
            "for" => "#for i in 0..N\n#for j in i..2\n${i}${j}\n#endfor\n#endfor",
            "loop" => "#include \"loop\"\nonce",
            "stray" => "x\n#endif",
            "open" => "x\n#if 1\ny",
            "word" => "#iff 1",
            "undefined" => "a\n#if M\n#endif",
            "text" => "#if T\n#endif",
            "brace" => "${N",
            "zero" => "${1 / (N - N)}",
            "minus" => "${10 - 3 - 2} ${2 + 3 * 4 % 5} ${-N} ${1 < 2 || 0}",
            "dead" => "#if 0\n${nowhere}\n#include \"nowhere\"\n#endif\nlive",
            "nofile" => "#include \"nowhere\"",
            _ => return None,
        })
    }

    fn go(name: &str, n: i64) -> Result<String, String> {
        let defs = [
            ("N".into(), Def::Int(n)),
            ("T".into(), Def::Text("f32".into())),
        ];
        render(name, &defs, &files)
            .map(|s| s.replace('\n', "|"))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn substitution_and_includes() {
        assert_eq!(go("a", 3).unwrap(), "lib|A 3 f32 7|");
        assert_eq!(go("loop", 0).unwrap(), "once|");
        assert_eq!(go("minus", 3).unwrap(), "5 4 -3 1|");
    }

    #[test]
    fn branches() {
        assert_eq!(go("if", 1).unwrap(), "one|end|");
        assert_eq!(go("if", 2).unwrap(), "two|nested|end|");
        assert_eq!(go("if", 3).unwrap(), "many|end|");
        assert_eq!(go("dead", 3).unwrap(), "live|");
    }

    #[test]
    fn loops() {
        assert_eq!(go("for", 2).unwrap(), "00|01|11|");
        assert_eq!(go("for", 0).unwrap(), "");
    }

    #[test]
    fn errors_are_values_with_a_place() {
        for (name, want) in [
            ("stray", "stray:2: #endif without its beginning"),
            ("open", "open:2: #if without #endif"),
            ("word", "word:1: unknown directive #iff"),
            ("undefined", "undefined:2: M is not defined"),
            ("text", "text:1: T is a text, not a number"),
            ("brace", "brace:1: ${ without }"),
            ("zero", "zero:1: 1 / 0 has no value"),
            ("nofile", "nowhere:1: no such shader file"),
            ("absent", "absent:1: no such shader file"),
        ] {
            assert_eq!(go(name, 3).unwrap_err(), want);
        }
    }
}
