import ArgumentParser
import CStart
import Foundation
import Logging
import RegisPay

/// `regispay serve`: configuration to a running server.
struct Serve: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Serve the API, the page, the consumers and the simulators from one data directory.",
    discussion: "Stops on SIGTERM, SIGINT or SIGHUP: requests and calls under way are ended, and the logs are closed.")

  @Option(help: ArgumentHelp("Where the logs are kept; made if it is missing.", valueName: "directory"))
  var dir = "./data"

  @Flag(
    help: ArgumentHelp(
      "Let the group read the logs: directories 0750, files 0640.",
      discussion:
        "Without it nobody but the server's user may, and keys, webhooks and the list nobody else in any case. "
        + "What is there already keeps its mode."))
  var groupAccess = false

  @Option(help: "The address to listen on.")
  var host = "127.0.0.1"

  @Option(help: "The port to listen on; 0 takes a free one.")
  var port: UInt16 = 8080

  @Option(help: ArgumentHelp("The PSP's base URL; without it the simulator is used.", valueName: "url"))
  var pspURL: String?

  @Option(
    help: ArgumentHelp("The notification service's base URL; without it the simulator is used.", valueName: "url"))
  var notificationsURL: String?

  @OptionGroup(title: "Calls to these services")
  var calls: CallOptions

  @Option(help: ArgumentHelp("The size of a new segment file of the logs.", valueName: "bytes"))
  var segmentBytes: Int?

  @Option(
    help: ArgumentHelp(
      "How fast the logs' files are read again in the background, to find damage; 0 turns that off.",
      valueName: "bytes/second"))
  var scrubRate: UInt64 = 8 << 20

  @Flag(
    help: ArgumentHelp(
      "Deliver webhooks to this machine and to private networks too, and over http.",
      discussion: "Whoever may register a webhook can then make this server send requests to what only it can reach."))
  var allowPrivateWebhooks = false

  @Flag(
    help: ArgumentHelp(
      "Start though the webhooks that were registered are gone.",
      discussion: "Needed once. They have to be registered again, and their receivers get other secrets."))
  var newWebhooks = false

  @Option(help: ArgumentHelp("How long a webhook's receiver may take to answer.", valueName: "seconds"))
  var webhookTimeout = 15

  @Option(help: "How much to log: trace, debug, info, notice, warning, error or critical.")
  var logLevel = Logger.Level.info

  @Option(
    help: ArgumentHelp(
      "A name by which clients address the server, as the Host field says it without a port; may be given several times.",
      valueName: "name"))
  var allowedHost: [String] = []

  @Flag(
    help:
      "Listen on other addresses than this machine's own though there is no key, and anybody who reaches them can pay."
  )
  var insecure = false

  @Option(
    help: ArgumentHelp(
      "The time that a stop may take, whatever hangs. What is not done by then is done after the next start.",
      valueName: "seconds"))
  var stopTimeout = 15

  @OptionGroup(title: "Limits")
  var limitArguments: LimitArguments

  func validate() throws {
    guard (1...300).contains(webhookTimeout) else {
      throw ValidationError("--webhook-timeout must be 1 to 300 seconds")
    }
    guard (1...3600).contains(stopTimeout) else { throw ValidationError("--stop-timeout must be 1 to 3600 seconds") }
    if let segmentBytes, !ServerOptions.segmentByteRange.contains(segmentBytes) {
      let range = ServerOptions.segmentByteRange
      throw ValidationError("--segment-bytes is \(range.lowerBound) to \(range.upperBound)")
    }
    if let pspURL { try checkURL(pspURL, of: "--psp-url") }
    if let notificationsURL { try checkURL(notificationsURL, of: "--notifications-url") }
  }

  func run() async throws {
    // A log that may not grow is an error of its own, and no reason to end.
    signal(SIGXFSZ, SIG_IGN)
    DescriptorLimit.raise()
    let descriptors = DescriptorLimit.current
    guard descriptors >= DescriptorLimit.needed else {
      fail(
        "only \(descriptors) files and connections may be open at a time, and \(DescriptorLimit.needed) are needed; raise"
          + " the hard limit of open files (ulimit -n \(DescriptorLimit.needed), or LimitNOFILE= of the systemd unit)"
      )
    }
    Allocator.keepMemoryFlat()
    var logger = Logger(label: "regispay") { StreamLogHandler(label: $0, stream: LogOutput.standardError) }
    logger.logLevel = logLevel
    var options = ServerOptions(directory: dir)
    options.host = host
    options.allowsGroup = groupAccess
    options.port = Int(port)
    options.segmentBytes = segmentBytes ?? options.segmentBytes
    options.simulatorSegmentBytes = segmentBytes ?? options.simulatorSegmentBytes
    options.scrubBytesPerSecond = scrubRate
    calls.apply(to: &options)
    options.webhooks.allowsPrivate = allowPrivateWebhooks
    options.webhooks.acceptsLoss = newWebhooks
    options.webhooks.timeLimit = .seconds(webhookTimeout)
    options.allowedHosts = allowedHost
    options.isInsecure = insecure
    options.stopLimit = .seconds(stopTimeout)
    options.limits = limitArguments.limits(isLoopback: options.isLoopback)
    options.pspURL = pspURL.map(Self.withoutSlash)
    options.notificationsURL = notificationsURL.map(Self.withoutSlash)
    do {
      try await Server.open(options, logger: logger).run(
        stopSignals: [.sigterm, .sigint] + (cstart_is_ignored(SIGHUP) ? [] : [.sighup]),
        onOverdue: { [stopTimeout] in
          // As after kill -9, nothing that was answered is lost.
          fail("not everything ended within the \(stopTimeout) seconds of --stop-timeout; the next start does the rest")
        },
        onReady: { url in
          print("RegisPay is ready: open \(url)")
          // Seen at once, also through a pipe.
          fflush(nil)
        })
    } catch {
      fail("\(error)")
    }
    LogOutput.standardError.flush(seconds: 1)
  }

  private static func withoutSlash(_ url: String) -> String {
    url.hasSuffix("/") ? String(url.dropLast()) : url
  }
}

/// - Throws: ``ValidationError``: a URL that can't be used is wrong usage.
func checkURL(_ url: String, of option: String) throws {
  do throws(EndpointError) {
    try BaseURL.check(url)
  } catch {
    throw ValidationError("\(option): \(error)")
  }
}

/// Says what went wrong in one line, and ends the process with exit code 1.
func fail(_ message: String) -> Never {
  LogOutput.standardError.write("regispay: \(message)\n")
  LogOutput.standardError.flush(seconds: 1)
  exit(1)
}

extension Logger.Level: @retroactive ExpressibleByArgument {}
