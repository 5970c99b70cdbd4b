import Foundation
import LogStore

/// Looks at a machine, a data directory and settings for what would keep a server from starting or make it lose data: `regispay
/// doctor`. A server may run meanwhile: no lock is taken, and nothing is changed.
///
/// Safe to use from any thread.
public struct Diagnosis: Sendable {
  /// What the settings say, as far as they can be used.
  public var options: ServerOptions
  /// What of the settings can't be used: one line each, with its source.
  public var mistakes: [String]
  /// Where the settings were read.
  public var sources: String
  /// The directory of `regispay backup`; nil for none.
  public var backup: String?
  /// An older backup is a problem.
  public var backupAgeLimit = Duration.seconds(15 * 60)

  public init(_ options: ServerOptions, mistakes: [String] = [], sources: String = "the options", backup: String? = nil)
  {
    self.options = options
    self.mistakes = mistakes
    self.sources = sources
    self.backup = backup
  }

  /// Runs all checks. Blocks for some seconds: at most twice ``TimedCheck/limit``.
  public func run() -> DiagnosisReport {
    let directory = options.directory
    let addresses =
      [PortCheck.Address(host: options.host, port: options.port, option: "--port", isTLS: options.tls != nil)]
      + (options.metricsAddress.map {
        [PortCheck.Address(host: $0.host, port: $0.port, option: "--metrics-address", isTLS: false)]
      } ?? [])
    let checks: [any Check] = [
      ConfigurationCheck(options: options, mistakes: mistakes, sources: sources),
      CertificateCheck(files: options.tls),
      PortCheck(addresses: addresses, directory: directory),
      FileSystemCheck(directory: directory),
      DiskSpaceCheck(
        directory: directory,
        segmentBytes: options.segmentBytes + (options.simulatedServices.isEmpty ? 0 : options.simulatorSegmentBytes)),
      PermissionsCheck(directory: directory, isForGroup: options.allowsGroup),
      OpenFilesCheck(connections: options.limits.connections),
      FileSizeCheck(segmentBytes: max(options.segmentBytes, options.simulatorSegmentBytes)),
      ThreadsCheck(), MemoryCheck(), ProcessorsCheck(), InotifyCheck(),
      ClockCheck(directory: directory),
      StoreCheck(directory: directory, hasSimulator: !options.simulatedServices.isEmpty),
      KeysCheck(
        directory: directory, isLoopback: options.isLoopback, isInsecure: options.isInsecure, host: options.host),
      WebhooksCheck(directory: directory, acceptsLoss: options.webhooks.acceptsLoss),
      PSPCheck(options: options),
      BackupCheck(backup: backup, directory: directory, ageLimit: backupAgeLimit),
    ]
    // Alone, since the others read from the same disk.
    let findings = TimedCheck.run(checks) + TimedCheck.run([SyncSpeedCheck(directory: directory)])
    let order = CheckName.allCases
    return DiagnosisReport(
      directory: DataPlace.absolute(directory), seconds: UInt64(Clock.microseconds() / 1_000_000),
      findings: order.flatMap { name in findings.filter { $0.check == name } })
  }
}

/// What ``Diagnosis`` has found.
public struct DiagnosisReport: Sendable, Hashable {
  /// The data directory.
  public var directory: String
  /// When, in seconds since 1970-01-01 UTC.
  public var seconds: UInt64
  /// In the order of ``CheckName``.
  public var findings: [Finding]

  /// Whether a check has found a problem.
  public var hasProblem: Bool { count(.problem) > 0 }

  private func count(_ result: Finding.Result) -> Int { findings.count { $0.result == result } }

  /// For people: one line for each finding, below it what to do, and a line with the numbers.
  public var text: String {
    let results = Finding.Result.allCases.map(\.rawValue.count).max() ?? 0
    let names = findings.map(\.check.rawValue.count).max() ?? 0
    let indentation = String(repeating: " ", count: results + names + 4)
    var lines: [String] = []
    for finding in findings {
      let columns = [
        padded(finding.result.rawValue, results), padded(finding.check.rawValue, names), line(finding.found),
      ]
      lines.append(columns.joined(separator: "  "))
      if let advice = finding.advice { lines.append("\(indentation)To do: \(line(advice))") }
    }
    let problems = count(.problem)
    let warnings = count(.warning)
    let sum =
      problems == 0 && warnings == 0
      ? "no problem and no warning"
      : "\(problems) problem\(problems == 1 ? "" : "s"), \(warnings) warning\(warnings == 1 ? "" : "s")"
    lines.append("\(line(directory)): \(sum), \(count(.ok)) ok, \(count(.notChecked)) not checked\n")
    return lines.joined(separator: "\n")
  }

  /// For programs: one object.
  public var json: JSONValue {
    let worst: Finding.Result = hasProblem ? .problem : count(.warning) > 0 ? .warning : .ok
    return [
      "version": .string(LogStore.version),
      "time": .string(Date(timeIntervalSince1970: Double(seconds)).formatted(.iso8601)),
      "directory": .string(directory),
      "result": .string(worst.rawValue),
      "checks": .array(
        findings.map { finding in
          var members: [JSONValue.Member] = [
            .init("id", .string(finding.check.rawValue)), .init("result", .string(finding.result.rawValue)),
            .init("found", .string(finding.found)),
          ]
          if let advice = finding.advice { members.append(.init("advice", .string(advice))) }
          return .object(members)
        }),
    ]
  }

  private func padded(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.count))
  }

  /// The text without what a file's name could do to a terminal.
  private func line(_ text: String) -> String {
    var line = ""
    for scalar in text.unicodeScalars {
      line.unicodeScalars.append(scalar.properties.generalCategory == .control ? "?" : scalar)
    }
    return line
  }
}
