//! The way back to the first of an ordered list, for who follows another one of it.

use tokio::time::{Instant, sleep};

use crate::{ControlPlane, Settings};

/// Looks at the first choice in the time that it has to be good.
const LOOKS: u32 = 3;

/// Waits until `first` has been reachable for [`Settings::home_after`] without a break, and then for a part of
/// [`Settings::home_spread`] that `random` (`0.0..1.0`) chooses, so that those who left it together come back spread out. Each
/// look is a connection of its own: the stream to whoever is followed meanwhile stays.
pub async fn first_is_good(first: &ControlPlane, settings: &Settings, random: f64) {
    let spread = settings.home_spread.mul_f64(random.clamp(0.0, 1.0));
    let mut since = None;
    loop {
        sleep(settings.home_after / LOOKS).await;
        if first.connect(settings).await.is_err() {
            since = None;
            continue;
        }
        let good_since = *since.get_or_insert_with(Instant::now);
        if good_since.elapsed() >= settings.home_after + spread {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    fn settings() -> Settings {
        Settings {
            home_after: Duration::from_millis(30),
            home_spread: Duration::ZERO,
            connect_timeout: Duration::from_secs(5),
            ..Settings::default()
        }
    }

    async fn bound() -> (TcpListener, ControlPlane) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        (listener, ControlPlane::Plain(address))
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_waited_for_and_one_that_is_there_is_good_after_its_time() {
        let (settings, begun) = (settings(), Instant::now());
        let (listener, first) = bound().await;
        timeout(Duration::from_secs(30), first_is_good(&first, &settings, 0.0)).await.unwrap();
        assert!(begun.elapsed() >= settings.home_after);
        drop(listener);
        let waited = timeout(Duration::from_millis(200), first_is_good(&first, &settings, 0.0)).await;
        assert!(waited.is_err(), "nobody is there");
    }
}
