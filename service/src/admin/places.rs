//! The places of a limited number of connections. A further connection takes the place of the oldest.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use tokio::sync::Notify;

/// The places of one thread.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    /// The connections, the oldest first.
    taken: RefCell<VecDeque<Rc<Notify>>>,
}

/// The place of an open connection.
#[derive(Debug)]
pub(super) struct Place<'a> {
    places: &'a Places,
    needed: Rc<Notify>,
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: RefCell::default() }
    }

    /// Takes a place. If there was none, the oldest connection is told that its place is needed.
    pub(super) fn take(&self) -> Place<'_> {
        let needed = Rc::new(Notify::new());
        let mut taken = self.taken.borrow_mut();
        taken.push_back(Rc::clone(&needed));
        if taken.len() > self.most
            && let Some(oldest) = taken.pop_front()
        {
            oldest.notify_one();
        }
        drop(taken);
        Place { places: self, needed }
    }
}

impl Place<'_> {
    /// Waits until another connection needs the place.
    pub(super) async fn is_needed(&self) {
        self.needed.notified().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.places.taken.borrow_mut().retain(|taken| !Rc::ptr_eq(taken, &self.needed));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_oldest_connection_makes_place_for_one_too_many() {
        let places = Places::new(2);
        let is_needed = |place: &Place<'_>| place.is_needed().now_or_never().is_some();
        let (first, second) = (places.take(), places.take());
        assert!(!is_needed(&first) && !is_needed(&second));
        drop(first);
        let third = places.take();
        assert!(!is_needed(&second) && !is_needed(&third));
        let fourth = places.take();
        assert!(is_needed(&second) && !is_needed(&third) && !is_needed(&fourth));
    }
}
