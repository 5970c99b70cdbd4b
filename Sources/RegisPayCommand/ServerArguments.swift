import ArgumentParser
import Logging
import RegisPay

/// The certificate of a server that speaks TLS.
struct TLSArguments: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Speak TLS with this certificate and those between it and its root, in PEM; needs --tls-key.",
      discussion: "The files are read again when they change.", valueName: "file"))
  var tlsCertificate: String?

  @Option(help: ArgumentHelp("The certificate's private key, in PEM, without a passphrase.", valueName: "file"))
  var tlsKey: String?

  /// Whether the options fit each other.
  func checkTogether() throws {
    if tlsCertificate != nil, tlsKey == nil { throw ValidationError("--tls-certificate needs --tls-key") }
    if tlsKey != nil, tlsCertificate == nil { throw ValidationError("--tls-key needs --tls-certificate") }
  }

  /// Nil for plain HTTP.
  func files(clientRoots: String? = nil) -> TLSFiles? {
    guard let tlsCertificate, let tlsKey else { return nil }
    return TLSFiles(certificate: tlsCertificate, key: tlsKey, clientRoots: clientRoots)
  }
}

/// The log lines of a server.
struct LogLineArguments: ParsableArguments {
  @Option(help: "The lowest level to log: trace, debug, info, notice, warning, error or critical.")
  var logLevel = Logger.Level.info

  @Option(
    help: ArgumentHelp(
      "How log lines are written: text for people, json for programs.",
      discussion: "The default is text if standard error is a terminal, otherwise json."))
  var logFormat: LogFormat?
}

/// The files of a server's logs.
struct LogFileArguments: ParsableArguments {
  @Option(help: ArgumentHelp("Size of a new segment file of the logs.", valueName: "bytes"))
  var segmentBytes: Int?

  @Option(
    help: ArgumentHelp(
      "How fast a background task reads the logs' files again to find damage; 0 turns it off.",
      valueName: "bytes/second"))
  var scrubRate: UInt64 = 8 << 20

  func validate() throws {
    if let segmentBytes, !ServerOptions.segmentByteRange.contains(segmentBytes) {
      let range = ServerOptions.segmentByteRange
      throw ValidationError("--segment-bytes must be \(range.lowerBound) to \(range.upperBound)")
    }
  }
}

/// Names of a server, and how long it may take to stop.
struct HostAndStopArguments: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "A host name that clients use for the server, without a port; repeat the option for several.",
      valueName: "name"))
  var allowedHost: [String] = []

  @Option(
    help: ArgumentHelp(
      "Seconds a stop may take. Unfinished work continues after the next start.",
      valueName: "seconds"))
  var stopTimeout = 15

  func validate() throws {
    if allowedHost.contains("") { throw ValidationError("--allowed-host must not be empty") }
    guard (1...3600).contains(stopTimeout) else { throw ValidationError("--stop-timeout must be 1 to 3600 seconds") }
  }
}

extension Logger.Level: @retroactive ExpressibleByArgument {}
extension LogFormat: ExpressibleByArgument {}
