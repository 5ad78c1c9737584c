//! The configuration's `key = value` pairs, typed; what nobody asks for is refused.

use crate::Param;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Parameters of one policy. Asking for a key makes it known.
#[derive(Debug, Default)]
pub struct Params {
    given: Vec<Param>,
    known: Vec<&'static str>,
}

impl Params {
    /// From what the agent hands over.
    pub fn new(given: Vec<Param>) -> Self {
        Self { given, known: Vec::new() }
    }

    /// The raw text of `key`, if it is given.
    pub fn text(&mut self, key: &'static str) -> Option<&str> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.given.iter().find(|p| p.key == key).map(|p| p.value.as_str())
    }

    /// The value of `key`, or `default`. `rule` completes "must be ...".
    pub fn get<T: FromStr>(&mut self, key: &'static str, rule: &str, default: T) -> Result<T, String> {
        match self.text(key) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("parameter {key} = {text:?}: must be {rule}")),
        }
    }

    /// The whole number of `key` within `range`, or `default`.
    pub fn number<T>(&mut self, key: &'static str, range: RangeInclusive<T>, default: T) -> Result<T, String>
    where
        T: FromStr + PartialOrd + Display,
    {
        let rule = format!("a whole number from {} to {}", range.start(), range.end());
        let value = self.get(key, &rule, default)?;
        if range.contains(&value) {
            Ok(value)
        } else {
            Err(format!("parameter {key} = \"{value}\": must be {rule}"))
        }
    }

    /// The index of the value of `key` in `names`, by name or by number. `None` if it is not given.
    pub fn index_of<'a>(
        &mut self,
        key: &'static str,
        names: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<Option<u16>, String> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let by_name = names.clone().position(|n| n == text);
        let found = by_name.or_else(|| text.parse().ok().filter(|i| *i < names.clone().count()));
        match found.and_then(|i| u16::try_from(i).ok()) {
            Some(i) => Ok(Some(i)),
            None => {
                let all: Vec<&str> = names.collect();
                Err(format!("parameter {key} = {text:?}: must be one of {}, or its index", all.join(", ")))
            }
        }
    }

    /// Refuses what nobody asked for and what is given twice.
    pub fn finish(self) -> Result<(), String> {
        for (i, p) in self.given.iter().enumerate() {
            if !self.known.contains(&p.key.as_str()) {
                let known = if self.known.is_empty() { "none".into() } else { self.known.join(", ") };
                return Err(format!("parameter {} = {:?}: unknown; known: {known}", p.key, p.value));
            }
            if self.given[..i].iter().any(|q| q.key == p.key) {
                return Err(format!("parameter {} = {:?}: given twice", p.key, p.value));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::params;

    #[test]
    fn number_outside_its_range_is_refused_with_the_rule() {
        let mut p = Params::new(params(&[("step", "101"), ("down", "x")]));
        assert_eq!(
            p.number("step", 1..=100, 5),
            Err("parameter step = \"101\": must be a whole number from 1 to 100".into())
        );
        assert_eq!(
            p.number("down", 1..=100, 5),
            Err("parameter down = \"x\": must be a whole number from 1 to 100".into())
        );
        assert_eq!(p.number("up", 1..=100, 80), Ok(80));
    }

    #[test]
    fn unknown_key_is_refused_and_the_known_ones_are_named() {
        let mut p = Params::new(params(&[("stpe", "3")]));
        assert_eq!(p.number("step", 1..=100, 5), Ok(5));
        assert_eq!(p.finish(), Err("parameter stpe = \"3\": unknown; known: step".into()));
    }

    #[test]
    fn key_given_twice_is_refused() {
        let mut p = Params::new(params(&[("step", "3"), ("step", "4")]));
        assert_eq!(p.number("step", 1..=100, 5), Ok(3));
        assert_eq!(p.finish(), Err("parameter step = \"4\": given twice".into()));
    }

    #[test]
    fn name_or_index_is_found() {
        let names = ["quarter", "half"];
        let mut p = Params::new(params(&[("a", "half"), ("b", "0"), ("c", "2")]));
        assert_eq!(p.index_of("a", names.into_iter()), Ok(Some(1)));
        assert_eq!(p.index_of("b", names.into_iter()), Ok(Some(0)));
        assert_eq!(
            p.index_of("c", names.into_iter()),
            Err("parameter c = \"2\": must be one of quarter, half, or its index".into())
        );
        assert_eq!(p.index_of("d", names.into_iter()), Ok(None));
    }
}
