//! What configurations have in common.

/// An error that names the first of these limits that is zero, if one is: nothing would get through.
pub fn above_zero<T: Default + PartialEq>(limits: &[(&str, T)]) -> Result<(), String> {
    let zero = T::default();
    match limits.iter().find(|(_, limit)| *limit == zero) {
        Some((name, _)) => Err(format!("{name} must be above zero")),
        None => Ok(()),
    }
}
