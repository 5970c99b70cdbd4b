import ArgumentParser
import LogStore

/// Writers, a tail, loads and the building of indexes at the same time, for minutes.
struct MixedBench: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "mixed",
    abstract: "Append, tail, load and build indexes at once for some minutes, and look for stalls.",
    discussion: """
      A probe writes and syncs a frame of the same size into a file of its own on the same disk, 20 times a second. A call \
      that takes over 50 ms more than the longest of the probe in the same window is a stall, and listed; calls that \
      overlap in time are one. A tail's time is from before the append to when the reader has the event.
      """)

  @Option(help: "How long.")
  var minutes = 10.0

  @Option(help: "Bytes of payload of an event.")
  var payload = 256

  @Option(help: "Tasks that append at the same time, synced.")
  var writers = 64

  @Option(help: "MiB of a segment; small ones end and are indexed often.")
  var segmentMib = 16

  @Option(help: "Random loads a second.")
  var loads = 1000

  @OptionGroup var output: OutputOptions

  func validate() throws {
    guard (0.01...1440).contains(minutes) else { throw ValidationError("--minutes must be 0.01 to 1440") }
    guard (8...4096).contains(payload) else { throw ValidationError("--payload must be 8 to 4096") }
    guard (1...9999).contains(writers) else { throw ValidationError("--writers must be 1 to 9999") }
    guard (1...1024).contains(segmentMib) else { throw ValidationError("--segment-mib must be 1 to 1024") }
    guard (1...100_000).contains(loads) else { throw ValidationError("--loads must be 1 to 100000") }
  }

  /// Bytes on disk of an event beyond its payload: an upper bound.
  private static let overheadBytes = 120

  func run() async throws {
    let reporter = output.reporter()
    let directory = try output.directory()
    let most = Int(minutes * 60 * Double(FreeSpace.syncedEventsPerSecond))
    try FreeSpace.check(
      most * (payload + Self.overheadBytes), in: directory.path, for: "bench mixed of \(fixed(minutes, 2)) minutes")
    try await reporter.begin()
    let workload = MixedWorkload(
      shape: EventShape(payloadBytes: payload), writers: writers, seconds: minutes * 60,
      segmentBytes: segmentMib << 20, loadsPerSecond: loads)
    if !output.json { printLine(MixedResult.Window.heading) }
    let result = try await workload.run(in: directory, reporter)
    for stall in result.stalls { reporter.line(text: stall.text, json: stall.json) }
    if result.busyness.isBusy {
      reporter.warn("the machine was busy with something else: \(result.busyness.text)")
    }
    reporter.printVerdicts(result.verdicts)
    if output.json {
      for verdict in result.verdicts { printLine(verdict.json(workload: "mixed verdict")) }
      printLine(result.json)
    }
    try reporter.write(
      Document(
        title: "LogStore with everything at once", verdicts: result.verdicts, warnings: reporter.warnings,
        sections: MixedReport.sections(result), machine: Machine(directory: output.directoryAbove), settings: [],
        method: MixedReport.method(workload)
      ).source)
  }
}
