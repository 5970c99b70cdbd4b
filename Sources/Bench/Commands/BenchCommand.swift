import ArgumentParser
import LogStore

/// Measures LogStore against what the machine itself can do with the same bytes, and against other engines.
@main
struct BenchCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench",
    abstract: "Measure LogStore, in the same run the machine's own limit for the same bytes, and other engines.",
    discussion: """
      In every run each system takes its turn, in an order that moves on, so that a machine that is busy with something \
      else slows all of them. A result is the median over the runs, with the least and the greatest; a ratio is the median \
      of the runs' ratios to the limit. A first round of all is not counted. The limits:
        synced append   pwrite and fdatasync of the same encoded bytes into a file that was written before; many writers \
      are threads, and those that wait at the same time share one sync
        buffered append the same without the syncs into a new file, and one fdatasync at the end
        scan            a mapped file of the same frames, every record's and header's checksum, one after the other
        load            the same records at places known beforehand, in a mapped file, with their checksums
        tail            the synced append of one writer; its latency is from the acknowledgement to when it is seen, and \
      from before the append in a second line
      Run it from a release build, on a machine that does nothing else; it says so when that isn't so.

      Fields of a line of JSON: workload, system (logstore, limit, or a peer), events (in all counted runs), \
      payload_bytes, writers, batch, seconds (all counted runs), events_per_second (median; also _min, _max), \
      mib_per_second (payload), p50_us p90_us p99_us p999_us max_us (microseconds of a call, over all counted runs; null \
      where there are no single calls), limit_events_per_second, ratio_to_limit (median; also _min, _max), runs, bar and \
      reached (what LogStore has to reach, and whether it did; null: can't be told), overhead_bytes_per_event (on disk, \
      beyond the payload, without ahead_bytes, which are only written ahead of the writer), overhead_bar, \
      overhead_reached, busy (the machine did something else: above 5 % in others_cpu_percent or 2 % in steal_percent, \
      of all cores), settings.
      """,
    subcommands: [
      AppendBench.self, TailBench.self, LoadBench.self, ScanBench.self, AllBench.self, ScaleBench.self, MixedBench.self,
      PaymentsBench.self, PaymentsServerCommand.self,
      TailReader.self, ScaleWorker.self, ScaleOpener.self,
    ])
}

/// What every workload takes.
struct BenchOptions: ParsableArguments {
  @Option(help: "Bytes of payload of an event.")
  var payload = 256

  @Option(help: "Events of each system in all runs; each workload has a number of its own that takes some seconds.")
  var events: Int?

  @Option(help: "How often each system takes its turn.")
  var runs = 5

  @OptionGroup var output: OutputOptions

  func validate() throws {
    guard (0...Limits.eventBytes).contains(payload) else {
      throw ValidationError("--payload must be 0 to \(Limits.eventBytes)")
    }
    if let events, events < 1 { throw ValidationError("--events must be at least 1") }
    guard (1...1000).contains(runs) else { throw ValidationError("--runs must be 1 to 1000") }
  }

  var shape: EventShape { EventShape(payloadBytes: payload) }
}

/// Where data and results go.
struct OutputOptions: ParsableArguments {
  @Flag(help: "Print one JSON object a line.")
  var json = false

  @Option(help: ArgumentHelp("Write a report with charts: one HTML file.", valueName: "report.html"))
  var out: String?

  @Option(help: ArgumentHelp("Where the data is written; it is removed afterwards.", valueName: "D"))
  var dir = "bench-data"

  func reporter() -> Reporter { Reporter(asJSON: json, out: out) }
  func directory() throws -> BenchDirectory { try BenchDirectory(in: dir) }
  /// On the same file system as the data, and still there when the data is gone.
  var directoryAbove: String {
    var path = dir[...]
    while path.count > 1, path.last == "/" { path.removeLast() }
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }
}

struct PeerOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Engines to measure beside LogStore, with commas between them: sqlite, lmdb, rocksdb.",
      valueName: "sqlite,lmdb,rocksdb"))
  var peers = PeerList()
}

struct AppendOptions: ParsableArguments {
  @Option(help: "Tasks that append at the same time; threads for the other systems.")
  var writers = 1

  @Option(help: "Events in one atomic append.")
  var batch = 1

  @Option(help: "synced: each append is durable when it returns. buffered: one flush at the end.")
  var durability = Durability.synced

  enum Durability: String, ExpressibleByArgument, CaseIterable {
    case synced
    case buffered
  }

  func validate() throws {
    guard (1...10_000).contains(writers) else { throw ValidationError("--writers must be 1 to 10000") }
    guard batch >= 1 else { throw ValidationError("--batch must be at least 1") }
  }
}

struct AppendBench: AsyncParsableCommand {
  static let configuration = CommandConfiguration(commandName: "append", abstract: "Append events.")
  @OptionGroup var append: AppendOptions
  @OptionGroup var peers: PeerOptions
  @OptionGroup var options: BenchOptions

  func validate() throws {
    guard append.batch <= Limits.frameBytes, options.shape.frameBytes(append.batch) <= Limits.frameBytes else {
      throw ValidationError("the events of one --batch must be at most \(Limits.frameBytes) bytes")
    }
  }

  func run() async throws {
    try await options.measure(peers.peers.kinds) { reporter in
      let workload = AppendWorkload(
        shape: options.shape, writers: append.writers, batch: append.batch, isSynced: append.durability == .synced,
        events: options.events, peers: peers.peers.kinds, runs: options.runs)
      try await workload.run(in: options.output.directory(), reporter)
    }
  }
}

struct TailBench: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "tail", abstract: "See events as they become durable, in this process and in another.")
  @OptionGroup var options: BenchOptions

  func run() async throws {
    try await options.measure([]) { reporter in
      let workload = TailWorkload(shape: options.shape, events: options.events ?? 2000, runs: options.runs)
      try await workload.run(in: options.output.directory(), reporter)
    }
  }
}

struct LoadBench: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "load", abstract: "Read streams of five events, in random order.")
  @OptionGroup var peers: PeerOptions
  @OptionGroup var options: BenchOptions

  func run() async throws {
    try await options.measure(peers.peers.kinds) { reporter in
      let workload = LoadWorkload(
        shape: options.shape, events: options.events ?? 2_000_000, peers: peers.peers.kinds, runs: options.runs)
      try await workload.run(in: options.output.directory(), reporter)
    }
  }
}

struct ScanBench: AsyncParsableCommand {
  static let configuration = CommandConfiguration(commandName: "scan", abstract: "Read all events in order.")
  @OptionGroup var peers: PeerOptions
  @OptionGroup var options: BenchOptions

  func run() async throws {
    try await options.measure(peers.peers.kinds) { reporter in
      let workload = ScanWorkload(
        shape: options.shape, events: options.events ?? 1_000_000, peers: peers.peers.kinds, runs: options.runs)
      try await workload.run(in: options.output.directory(), reporter)
    }
  }
}

struct AllBench: AsyncParsableCommand {
  static let configuration = CommandConfiguration(commandName: "all", abstract: "The table of all workloads.")
  @OptionGroup var peers: PeerOptions
  @OptionGroup var options: BenchOptions

  func run() async throws {
    let (shape, runs, kinds, events) = (options.shape, options.runs, peers.peers.kinds, options.events)
    try await options.measure(kinds) { reporter in
      for (writers, batch, isSynced) in [(1, 1, true), (64, 1, true), (1, 100, true), (1, 1000, false)] {
        let workload = AppendWorkload(
          shape: shape, writers: writers, batch: batch, isSynced: isSynced, events: events, peers: kinds, runs: runs)
        try await workload.run(in: options.output.directory(), reporter)
      }
      try await ScanWorkload(shape: shape, events: events ?? 1_000_000, peers: kinds, runs: runs)
        .run(in: options.output.directory(), reporter)
      try await LoadWorkload(shape: shape, events: events ?? 2_000_000, peers: kinds, runs: runs)
        .run(in: options.output.directory(), reporter)
      try await TailWorkload(shape: shape, events: min(events ?? 2000, 20_000), runs: runs)
        .run(in: options.output.directory(), reporter)
    }
  }
}

extension BenchOptions {
  /// Runs workloads and prints the results: lines as they are done, the bars at the end, the report.
  func measure(_ peers: [PeerKind], _ body: (Reporter) async throws -> Void) async throws {
    let reporter = output.reporter()
    try await reporter.begin()
    reporter.printHeading()
    try await body(reporter)
    reporter.printVerdicts()
    let measurements = reporter.measurements
    try reporter.write(
      Document(
        title: "LogStore beside the machine\u{2019}s limit" + (peers.isEmpty ? "" : " and its peers"),
        verdicts: reporter.verdicts, warnings: reporter.warnings, sections: WorkloadReport.sections(measurements),
        machine: Machine(directory: output.directoryAbove), settings: WorkloadReport.settings(measurements),
        method: WorkloadReport.method(runs: runs, payloadBytes: payload)
      ).source)
  }
}
