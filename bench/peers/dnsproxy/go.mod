module headgate.io/bench/dnsproxy

go 1.25.0

require github.com/AdguardTeam/dnsproxy v0.75.0
