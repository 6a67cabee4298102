//! What an access log is to be, as each plane has some.

use equipoise_access_log::{Destination, Format, Plan};

use crate::keys::{self, Key};
use crate::source::{Problem, Settings};

/// Reads where the log of `key` goes; `None` where it is off.
///
/// # Errors
/// When the text names no place.
pub fn plan(settings: &Settings, key: &Key) -> Result<Option<Plan>, Problem> {
    let Some(text) = settings.text(key).filter(|text| *text != "off") else { return Ok(None) };
    let destination: Destination = text.parse().map_err(|error| settings.problem(key, error))?;
    let format = settings.text(&keys::LOG_ACCESS_FORMAT).and_then(Format::named);
    Ok(Some(Plan {
        destination,
        format: format.unwrap_or(Format::Combined),
        buffer_bytes: settings.number(&keys::LOG_ACCESS_BUFFER_BYTES),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Process;
    use crate::source::Layers;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Plan>, Problem> {
        let mut layers = Layers::default();
        layers.environment(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        plan(&layers.resolve(Process::Node).unwrap(), &keys::PROXY_ACCESS_LOG)
    }

    #[test]
    fn a_log_is_off_until_somebody_says_where_it_goes() {
        let plan = |destination, format| Plan { destination, format, buffer_bytes: 1 << 20 };
        let file = Destination::File("logs/access.log".into());
        for (variables, want) in [
            (&[][..], None),
            (&[("KONG_PROXY_ACCESS_LOG", "off")], None),
            (&[("KONG_PROXY_ACCESS_LOG", "/dev/stdout")], Some(plan(Destination::Stdout, Format::Combined))),
            (&[("KONG_PROXY_ACCESS_LOG", "logs/access.log")], Some(plan(file.clone(), Format::Combined))),
            (
                &[("EQUIPOISE_PROXY_ACCESS_LOG", "logs/access.log"), ("EQUIPOISE_LOG_ACCESS_FORMAT", "json")],
                Some(plan(file, Format::Json)),
            ),
        ] {
            assert_eq!(read(variables).unwrap(), want, "{variables:?}");
        }
        let error = read(&[("KONG_PROXY_ACCESS_LOG", "logs/access.log basic")]).unwrap_err().to_string();
        assert!(error.contains("proxy.access_log") && error.contains("without a format"), "{error}");
    }
}
