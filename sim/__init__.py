"""The ground every room stands on: clocks, units, configs, events, the tile program, statistics, energy, the report."""
