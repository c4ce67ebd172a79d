//! `vxplane doctor`

use super::{
    CliError,
    output::{Printer, table},
};
use crate::{
    doctor::{Check, Status, examine},
    settings::Settings,
};

pub(super) async fn run(settings: &Settings, printer: Printer) -> Result<(), CliError> {
    let checks = examine(&settings.options(), &settings.docker).await;
    printer.value(&checks, |checks| show(checks))?;
    if checks.iter().any(|check| check.status == Status::Fail) {
        return Err(CliError::Unfit);
    }
    Ok(())
}

fn show(checks: &[Check]) -> String {
    let row = |check: &Check| {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        };
        let found = match check.advice.as_str() {
            "" => check.detail.clone(),
            advice => format!("{} → {advice}", check.detail),
        };
        [status.to_owned(), check.name.to_owned(), found]
    };
    table(
        ["STATUS", "CHECK", "FOUND"],
        checks.iter().map(row).collect(),
    )
}
