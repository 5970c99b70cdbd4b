import ArgumentParser
import Glibc
import LogStore

/// How LogStore does as the log grows: filled, loaded, appended to, killed and opened again at each power of ten.
struct ScaleBench: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "scale",
    abstract: "Fill a log, and at each power of ten of its events load, append, kill and open it.",
    discussion: """
      A process of its own fills the log (buffered, at full speed), measures, and goes on appending until it is killed; \
      another opens the log and tells how long that took; once more with the files gone from the cache. What was \
      acknowledged before the kill is looked for. Three kinds of synced appends are measured: to streams begun and gone on \
      with, to streams that must not be there, to random old streams. 20,000 random streams are loaded once, which tells \
      what the disk adds; a second time, when they are in memory; and then again and again for two seconds: hot, as a \
      stream is that is in use. By then most are in the store's cache of streams (32 MiB); with --stream-cache 0 the log \
      itself is measured.
      Memory is what doesn't belong to files (RssAnon), with that of the benchmark itself, at the end and at its peak.
      """)

  @Option(help: "Events in all.")
  var events = 100_000_000
  @OptionGroup var options: ScaleOptions
  @OptionGroup var output: OutputOptions

  func validate() throws {
    guard (1000...10_000_000_000).contains(events) else {
      throw ValidationError("--events must be 1000 to 10000000000")
    }
  }

  /// Bytes on disk of an event beyond its payload, and of one that was appended alone: upper bounds.
  private static let (filledOverhead, aloneOverhead) = (80, 200)

  func run() async throws {
    let reporter = output.reporter()
    let steps = scaleSteps(to: events)
    let directory = try output.directory()
    let alone = Int(Double(3 * steps.count * FreeSpace.syncedEventsPerSecond) * options.seconds)
    try FreeSpace.check(
      events * (options.payload + Self.filledOverhead) + alone * (options.payload + Self.aloneOverhead),
      in: directory.path, for: "bench scale with \(grouped(events)) events")
    try await reporter.begin()
    var results: [ScaleStep] = []
    if !output.json { printLine(ScaleStep.heading) }
    for (index, events) in steps.enumerated() {
      let step = try await measure(
        events, after: index == 0 ? 0 : steps[index - 1], number: index, directory, reporter)
      results.append(step)
      reporter.line(text: step.text, json: step.json)
      if step.busyness.isBusy {
        reporter.warn("the machine was busy with something else at \(grouped(events)) events: \(step.busyness.text)")
      }
    }
    let verdicts = ScaleStep.verdicts(results)
    reporter.printVerdicts(verdicts)
    if output.json { for verdict in verdicts { printLine(verdict.json(workload: "scale")) } }
    try reporter.write(
      Document(
        title: "LogStore as the log grows", verdicts: verdicts, warnings: reporter.warnings,
        sections: ScaleReport.sections(results), machine: Machine(directory: output.directoryAbove), settings: [],
        method: ScaleReport.method(options)
      ).source)
  }

  private func measure(
    _ events: Int, after previous: Int, number: Int, _ directory: BenchDirectory, _ reporter: Reporter
  ) async throws -> ScaleStep {
    let path = directory.file("store")
    let watch = BusynessWatch()
    let worker = try ChildProcess(
      ["scale-worker", "--dir", path, "--from", "\(previous)", "--to", "\(events)", "--step", "\(number)"]
        + options.arguments)
    var values: [String: Double] = [:]
    reporter.progress("\(grouped(events)) events: filling")
    while true {
      guard let line = try await onThread({ worker.line() }) else {
        throw BenchError("the process that fills the log ended early")
      }
      let parts = line.split(separator: " ")
      if parts == ["appending"] { break }
      guard parts.count == 2, let value = Double(parts[1]) else { throw BenchError("not understood: \(line)") }
      if parts[0] == "progress" {
        reporter.progress("\(grouped(events)) events: \(grouped(value)) filled")
      } else {
        values[String(parts[0])] = value
        reporter.progress("\(grouped(events)) events: measuring, after \(parts[0])")
      }
    }
    let busyness = watch.since()
    let acknowledged = try await killInTheMiddle(worker)
    var step = ScaleStep()
    step.events = events
    step.streams = options.layout.wholeStreams(events)
    step.fillRate = values["fill"] ?? 0
    (step.appendRate, step.newStreamRate) = (values["append"] ?? 0, values["new"] ?? 0)
    step.oldStreamRate = values["old"] ?? 0
    (step.firstLoadP50, step.firstLoadP99) = (values["first50"] ?? 0, values["first99"] ?? 0)
    (step.secondLoadP50, step.secondLoadP99) = (values["second50"] ?? 0, values["second99"] ?? 0)
    (step.loadP50, step.loadP99) = (values["hot50"] ?? 0, values["hot99"] ?? 0)
    (step.overheadPerEvent, step.aheadBytes) = (values["overhead"] ?? 0, Int(values["ahead"] ?? 0))
    (step.anonymousBytes, step.anonymousPeakBytes) = (Int(values["anonymous"] ?? 0), Int(values["peak"] ?? 0))
    step.busyness = busyness
    reporter.progress("\(grouped(events)) events: opening after the kill")
    step.openMilliseconds = try await open(path, expecting: acknowledged)
    Self.forget(path)
    step.coldOpenMilliseconds = try await open(path, expecting: acknowledged)
    return step
  }

  /// Kills the process after it has reported a few times how far it got. Returns the least offset that it reached.
  private func killInTheMiddle(_ worker: ChildProcess) async throws -> UInt64 {
    try await onThread {
      var acknowledged: UInt64 = 0
      var toldBefore = 0
      while let line = worker.line() {
        guard line.hasPrefix("acknowledged "), let end = UInt64(line.dropFirst("acknowledged ".count)) else { continue }
        acknowledged = max(acknowledged, end)
        toldBefore += 1
        // After that only what is in the pipe already is read.
        if toldBefore == 20 { worker.killHard() }
      }
      guard acknowledged > 0, toldBefore >= 20 else { throw BenchError("the appending process ended by itself") }
      return acknowledged
    }
  }

  /// Opens the log in a new process. Returns the milliseconds.
  private func open(_ path: String, expecting acknowledged: UInt64) async throws -> Double {
    let opener = try ChildProcess(["scale-opener", "--dir", path])
    return try await onThread {
      var values: [Substring: Double] = [:]
      while let line = opener.line() {
        let parts = line.split(separator: " ")
        if parts.count == 2 { values[parts[0]] = Double(parts[1]) }
      }
      guard let milliseconds = values["open"], let end = values["end"] else {
        throw BenchError("the log could not be opened after the kill")
      }
      guard end >= Double(acknowledged) else {
        throw BenchError("after the kill the log ends at \(end), but \(acknowledged) events were acknowledged")
      }
      return milliseconds
    }
  }

  /// Asks the kernel to drop the files from its cache.
  private static func forget(_ directory: String) {
    for name in names(in: directory) {
      let descriptor = Glibc.open("\(directory)/\(name)", O_RDONLY | O_CLOEXEC)
      guard descriptor >= 0 else { continue }
      // Only pages that are on disk can be dropped.
      fdatasync(descriptor)
      posix_fadvise(descriptor, 0, 0, Int32(POSIX_FADV_DONTNEED))
      close(descriptor)
    }
  }
}
