//! Values of arguments that several subcommands take.

use std::error::Error;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use quorate::ProtocolKind;

/// Parses one of `words`, and suggests the nearest if it is none of them.
pub(crate) fn one_of<T>(words: &[&'static str]) -> impl TypedValueParser<Value = T> + use<T>
where
    T: FromStr<Err: Error + Send + Sync> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|word| word.parse::<T>())
}

/// Parses the name of a protocol that is compiled in.
pub(crate) fn protocol() -> impl TypedValueParser<Value = ProtocolKind> {
    let names: Vec<&str> = ProtocolKind::ALL.iter().map(|kind| kind.name()).collect();
    one_of(&names)
}

/// Parses a number of seconds, fractions included.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| String::from("a number of seconds is expected, as in 0.5"))?;
    let duration = Duration::try_from_secs_f64(number);
    duration.map_err(|_| String::from("it is negative or too large"))
}

/// Parses a fraction from 0 to 1.
pub(crate) fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err(String::from("a number from 0 to 1 is expected")),
    }
}

/// Parses an option and its value, which is TOML, or a word that is no TOML.
pub(crate) fn option(text: &str) -> Result<(String, toml::Value), String> {
    let (name, value) = text.split_once('=').ok_or("OPTION=VALUE is expected")?;
    let table = format!("value = {value}").parse::<toml::Table>().ok();
    let parsed = table.and_then(|mut table| table.remove("value"));
    let word = || toml::Value::from(value);
    Ok((String::from(name), parsed.unwrap_or_else(word)))
}
