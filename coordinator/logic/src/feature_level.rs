//! Which commands all coordinators know.
//!
//! A command that an older coordinator does not know would part its state from the others'. So the state holds a level,
//! raised by a command once every coordinator of the roster says that it knows that level; commands of later levels are
//! proposed only then, and a program that knows less than the state's level does not take part (the shell stops).

/// The level to raise to from `committed`, when this coordinator knows commands up to `own` and the others said
/// `others`; none while one of them has not answered, or where there is nothing to raise.
pub fn level_to_raise(committed: u16, own: u16, others: &[Option<u16>]) -> Option<u16> {
    let known = others.iter().copied().try_fold(own, |least, other| other.map(|other| least.min(other)))?;
    (known > committed).then_some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_the_least_that_all_know_and_never_falls() {
        assert_eq!(level_to_raise(0, 2, &[Some(3), Some(1)]), Some(1));
        assert_eq!(level_to_raise(1, 2, &[Some(3), Some(1)]), None);
        assert_eq!(level_to_raise(2, 1, &[Some(1)]), None);
        assert_eq!(level_to_raise(0, 1, &[]), Some(1));
    }

    #[test]
    fn nothing_is_raised_while_a_coordinator_has_not_said_what_it_knows() {
        assert_eq!(level_to_raise(0, 2, &[Some(2), None]), None);
    }
}
