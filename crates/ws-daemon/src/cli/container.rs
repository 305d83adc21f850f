//! `ws-daemon container`: how the daemon starts inside its image. `setup.sh` is run, scripts are made executable, and as a
//! container's first process it starts the daemon as a child, passes signals on, and reaps whatever is left to it.
