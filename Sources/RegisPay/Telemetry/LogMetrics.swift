import LogStore

/// What the logs do, as metrics with the label `log`. Reads memory only.
struct LogMetrics: Sendable {
  struct Log: Sendable {
    var name: String
    var store: LogStore
    /// What its scrub has done; nil if scrubbing is off.
    var scrub: @Sendable () -> Scrub.Report?
    /// Damaged ranges and lost events that readers found.
    var damage: @Sendable () -> (ranges: Int, lostEvents: UInt64)
  }

  /// A log with what it did.
  private struct Reading {
    var log: Log
    var activity: StoreActivity
    var scrub: Scrub.Report?
    var damage: (ranges: Int, lostEvents: UInt64)
  }

  let logs: [Log]

  var families: [MetricFamily] {
    let readings = logs.map {
      Reading(log: $0, activity: $0.store.activity, scrub: $0.scrub(), damage: $0.damage())
    }
    return appends(readings) + files(readings) + health(readings)
  }

  /// - Parameter value: nil for no sample.
  private func family(
    _ readings: [Reading], _ name: String, _ kind: MetricFamily.Kind, _ help: String,
    _ value: (Reading) -> MetricFamily.Value?
  ) -> MetricFamily {
    var family = MetricFamily(name, kind, help)
    for reading in readings {
      if let value = value(reading) { family.add([.init("log", reading.log.name)], value) }
    }
    return family
  }

  private func appends(_ readings: [Reading]) -> [MetricFamily] {
    [
      family(readings, "logstore_appends", .counter, "Appends that were accepted.") { .count($0.activity.appends) },
      family(
        readings, "logstore_append_refusals", .counter,
        "Appends that were refused: conflicts, reused ids, limits, damage."
      ) { .count($0.activity.refusals) },
      family(readings, "logstore_appended_events", .counter, "Events that were written.") {
        .count($0.activity.events)
      },
      family(readings, "logstore_appended_bytes", .counter, "Bytes of the frames that were written.") {
        .count($0.activity.bytes)
      },
      family(
        readings, "logstore_sync_duration_seconds", .histogram, "Time of each sync; the count is that of commits."
      ) { .histogram($0.activity.syncMicroseconds.snapshot(perUnit: 1e6)) },
      family(readings, "logstore_commit_appends", .histogram, "Appends that one commit made durable.") {
        .histogram($0.activity.appendsOfSync.snapshot(perUnit: 1))
      },
      family(
        readings, "logstore_writer_busy_seconds", .gauge,
        "How long the writer has worked on its present appends; 0 while it waits for some."
      ) { .number(Double($0.log.store.workMilliseconds) / 1e3) },
      family(readings, "logstore_end_offset", .gauge, "The offset after the last durable event.") {
        .count($0.activity.endOffset)
      },
    ]
  }

  private func files(_ readings: [Reading]) -> [MetricFamily] {
    [
      family(readings, "logstore_segments", .gauge, "Segment files.") { .count($0.activity.segments) },
      family(readings, "logstore_index_files", .gauge, "Index files in use.") { .count($0.activity.indexFiles) },
      family(readings, "logstore_segments_to_index", .gauge, "Finished segments without an index file.") {
        .count($0.activity.segmentsToIndex)
      },
      family(readings, "logstore_index_merges_due", .gauge, "Merges of index files that are due and not done.") {
        .count($0.activity.mergesDue)
      },
      family(
        readings, "logstore_opening_duration_seconds", .gauge,
        "How long opening the log took at the start, with recovery after a crash."
      ) { .number(Double($0.activity.openingMicroseconds) / 1e6) },
      family(readings, "logstore_stream_cache_hits", .counter, "Loads of a stream that found it in memory.") {
        .count($0.activity.cacheHits)
      },
      family(readings, "logstore_stream_cache_misses", .counter, "Loads of a stream that did not.") {
        .count($0.activity.cacheMisses)
      },
      family(readings, "logstore_stream_cache_bytes", .gauge, "Memory of the streams that are kept.") {
        .count($0.activity.cacheBytes)
      },
    ]
  }

  private func health(_ readings: [Reading]) -> [MetricFamily] {
    [
      family(
        readings, "logstore_stopped", .gauge, "1 after a failed write or sync: nothing is appended until a restart."
      ) { .count($0.log.store.failure == nil ? 0 : 1) },
      family(
        readings, "logstore_clock_lead_seconds", .gauge, "How far the log's time is ahead of the machine's clock."
      ) { .number(Double($0.log.store.clockLeadMicroseconds) / 1e6) },
      family(readings, "logstore_scrub_rounds", .counter, "Times that all finished files were read again.") {
        $0.scrub.map { .count($0.rounds) }
      },
      family(readings, "logstore_scrub_bytes", .counter, "Bytes that were read again to find damage.") {
        $0.scrub.map { .count($0.bytes) }
      },
      family(
        readings, "logstore_scrub_progress_ratio", .gauge,
        "The share of the present round that is done; 1 between rounds."
      ) { $0.scrub.map { .number($0.progress) } },
      family(
        readings, "logstore_scrub_findings", .gauge, "Damaged places that the scrub found and that are not repaired."
      ) { $0.scrub.map { .count($0.findings.count) } },
      family(readings, "logstore_damaged_ranges", .gauge, "Damaged ranges that readers passed over, up to 100.") {
        .count($0.damage.ranges)
      },
      family(readings, "logstore_lost_events", .gauge, "Events in these ranges.") { .count($0.damage.lostEvents) },
    ]
  }
}

extension MetricFamily.Value {
  /// A number of things.
  static func count(_ value: some BinaryInteger) -> MetricFamily.Value { .integer(Int64(clamping: value)) }
}

extension StoreActivity.Distribution {
  /// - Parameter unit: how many of the values' units are one of the metric's.
  fileprivate func snapshot(perUnit unit: Double) -> HistogramSnapshot {
    HistogramSnapshot(bounds: bounds.map { Double($0) / unit }, counts: counts, sum: Double(sum) / unit)
  }
}
