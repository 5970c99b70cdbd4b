import ArgumentParser
import CoreMetrics
import Foundation
import Logging
import RegisPay

/// `regispay serve`: turns its options into a running server.
struct Serve: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Run the server: HTTP API, web page, payment processing and simulators on one data directory.",
    discussion:
      """
      Each option can also be set by an environment variable (REGISPAY_MAX_BODY_BYTES for --max-body-bytes, or \
      REGISPAY_MAX_BODY_BYTES_FILE for a file with the value), by a systemd credential (regispay.max-body-bytes) and in the file of \
      --config. The command line is asked first, then these in this order. --print-config shows the result.

      SIGTERM or SIGINT stops the server: it finishes requests and calls in flight and closes the logs. SIGHUP does the same; \
      with --config, it makes the server read its settings again. PUT /api/v1/logging changes the log level while it runs.
      """)

  @Option(
    help: ArgumentHelp(
      "A YAML or JSON file with options: their names without the dashes, and their values.",
      discussion: "The environment variable REGISPAY_CONFIG names one, too.", valueName: "file"))
  var config: String?

  @Flag(help: "Print each setting in force and where it comes from, and end.")
  var printConfig = false

  @Option(help: ArgumentHelp("The data directory; created if it does not exist.", valueName: "directory"))
  var dir = "./data"

  @Option(
    help: ArgumentHelp(
      "The directory that regispay backup writes to, to show how old the latest backup is.", valueName: "directory"))
  var backup: String?

  @Flag(
    help: ArgumentHelp(
      "Let the group read the logs: new directories get mode 0750, new files 0640.",
      discussion:
        "Without this option only the server's user can read them. API keys, webhooks and the payment list stay private in "
        + "any case. Existing files keep their mode."))
  var groupAccess = false

  @Option(help: "The address to listen on.")
  var host = "127.0.0.1"

  @Option(help: "The port to listen on; 0 means any free port.")
  var port: UInt16 = 8080

  @OptionGroup var tls: TLSArguments

  @Option(
    help: ArgumentHelp(
      "Let in only clients with a certificate that one of these root certificates vouches for, in PEM.",
      valueName: "file"))
  var tlsClientRoots: String?

  @Option(
    help: ArgumentHelp(
      "Also serve /metrics and /alive, and nothing else, on this address, without a key.",
      discussion: "Without this option /metrics is on --port alone, for keys with scope read.", valueName: "host:port"),
    transform: { text in
      guard let address = ServerOptions.Address(text) else {
        throw ValidationError("--metrics-address must be a host and a port, such as 127.0.0.1:9464 or [::1]:9464")
      }
      return address
    })
  var metricsAddress: ServerOptions.Address?

  @Option(help: ArgumentHelp("The PSP's base URL; the default is the built-in simulator.", valueName: "url"))
  var pspURL: String?

  @Flag(
    help: ArgumentHelp(
      "Start although the payments in --dir were made with another PSP.",
      discussion: "Needed once. What is unfinished, and refunds of older payments, go to the new PSP."))
  var newPSP = false

  @Option(
    help: ArgumentHelp("The notification service's base URL; the default is the built-in simulator.", valueName: "url"))
  var notificationsURL: String?

  @OptionGroup var tokens: ServiceTokens

  @Flag(
    help: ArgumentHelp(
      "Refuse to start unless --psp-url and --notifications-url name real services.",
      discussion: "The simulator runs only for a service that has no URL."))
  var noSimulator = false

  @Flag(help: "Make no calls to the PSP and the notification service: payments are accepted and wait.")
  var noProcessing = false

  @Flag(help: "Deliver no webhooks: their messages wait. Test messages that somebody asks for are sent.")
  var noWebhooks = false

  @Flag(help: "Serve no web page.")
  var noWeb = false

  @OptionGroup(title: "Calls to these services")
  var calls: CallOptions

  @OptionGroup var logFiles: LogFileArguments

  @Flag(
    help: ArgumentHelp(
      "Also deliver webhooks to this machine and to private networks, and over http.",
      discussion: "A client that may register a webhook can then make the server send requests into its own network."))
  var allowPrivateWebhooks = false

  @Flag(
    help: ArgumentHelp(
      "Start although the registered webhooks are lost.",
      discussion: "Needed once. Register the webhooks again afterwards; their receivers get new secrets."))
  var newWebhooks = false

  @Option(help: ArgumentHelp("Seconds a webhook's receiver may take to respond.", valueName: "seconds"))
  var webhookTimeout = 15

  @OptionGroup(title: "Integration events")
  var brokerArguments: BrokerArguments

  @OptionGroup var logLines: LogLineArguments
  @OptionGroup var hostAndStop: HostAndStopArguments

  @Option(
    help: ArgumentHelp(
      "A proxy whose X-Forwarded-For tells a client's address, or a network of proxies; repeat the option for several.",
      discussion:
        "Limits for one address then count each client behind it, and the proxy's connections for no address.",
      valueName: "address"))
  var trustedProxy: [String] = []

  @Flag(
    help: "Start without API keys on an address other machines can reach. Anybody who can reach it can create payments."
  )
  var insecure = false

  @OptionGroup(title: "Limits")
  var limitArguments: LimitArguments

  @OptionGroup(title: "Limits")
  var streamArguments: StreamArguments

  func validate() throws {
    guard (1...300).contains(webhookTimeout) else {
      throw ValidationError("--webhook-timeout must be 1 to 300 seconds")
    }
    if TrustedProxies(trustedProxy) == nil {
      throw ValidationError("--trusted-proxy must be an IP address, or a network such as 10.0.0.0/8")
    }
    if let pspURL { try checkURL(pspURL, of: "--psp-url") }
    if let notificationsURL { try checkURL(notificationsURL, of: "--notifications-url") }
  }

  /// What listens on all addresses of the machine.
  private static let everyAddress: Set = ["0.0.0.0", "::"]

  /// Whether options fit each other. Separate from ``validate()``, which also checks each source of settings alone.
  func checkTogether() throws(SettingsError) {
    do {
      try limitArguments.checkTogether()
      try brokerArguments.checkTogether()
      if let metricsAddress, metricsAddress.port != 0, metricsAddress.port == Int(port),
        metricsAddress.host == host || !Self.everyAddress.isDisjoint(with: [metricsAddress.host, host])
      {
        throw ValidationError("--metrics-address must have another port than --port, which is \(port)")
      }
      try tls.checkTogether()
      if tlsClientRoots != nil, tls.tlsCertificate == nil {
        throw ValidationError("--tls-client-roots needs --tls-certificate")
      }
      if tokens.pspToken != nil, pspURL == nil { throw ValidationError("--psp-token needs --psp-url") }
      if tokens.notificationsToken != nil, notificationsURL == nil {
        throw ValidationError("--notifications-token needs --notifications-url")
      }
    } catch {
      let message = Self.message(for: error)
      throw SettingsError([ServeConfiguration.current?.explained(message) ?? message])
    }
  }

  func run() async throws {
    let environment = ServeConfiguration.current?.environment ?? ProcessInfo.processInfo.environment
    let tracing: TraceOptions
    let logExport: LogExportOptions
    do {
      try checkTogether()
      tracing = try TraceOptions(environment: environment)
      logExport = try LogExportOptions(environment: environment)
      _ = try Self.inherited.get()
    } catch {
      RegisPayCommand.refuse(SettingsError(["\(error)"]))
    }
    if printConfig {
      print(Settings.text(SettingDefinitions.shown, ServeConfiguration.current?.inForce ?? []), terminator: "")
      print(OTLPOptions.text(environment), terminator: "")
      return
    }
    let logQueue = logExport.makeQueue()
    LogOutput.useFormat(logLines.logFormat, queue: logQueue)
    ServerProcess.ignoreWriteSignals()
    let reload = await SettingsReload.waitForHangups(ServeConfiguration.current)
    let signals = ServerProcess.stopSignals(endsOnHangup: reload == nil)
    ServerProcess.end(on: signals)
    ServerProcess.prepare()
    let logger = ServerProcess.logger
    var options = serverOptions
    options.tracing = tracing
    options.settings = SettingsInForce(
      ServeConfiguration.current?.shown ?? [], variables: OTLPOptions.shown(environment))
    (options.logExport, options.logQueue) = (logExport, logQueue)
    let metrics = MetricsRegistry()
    // From now on the metrics of libraries arrive there too.
    MetricsSystem.bootstrap(metrics)
    do {
      let server = try Server.open(options, logger: logger, metrics: metrics)
      if let reload { reload.begin(server, options, logger) }
      try await ServerProcess.run(signals, stopTimeout: hostAndStop.stopTimeout, stop: server.stop) { onOverdue in
        try await server.run(
          onOverdue: onOverdue, onReady: { url in ServerProcess.announce("RegisPay is ready: open \(url)") })
      }
    } catch {
      fail("\(error)")
    }
  }

  /// Looked for once: it is this process's from then on.
  private static let inherited = Result { () throws(InheritedSocket.Refusal) in
    try InheritedSocket.find(ProcessInfo.processInfo.environment)
  }

  /// What the options say, and at the place of `--host` and `--port` a socket that the process was given.
  var serverOptions: ServerOptions {
    // A refusal has ended the command.
    let socket = try? Self.inherited.get()
    var options = ServerOptions(directory: dir)
    options.logLevel.current = logLines.logLevel
    options.host = socket?.host ?? host
    options.allowsGroup = groupAccess
    options.backup = backup
    options.port = socket?.port ?? Int(port)
    options.socket = socket?.descriptor
    options.metricsAddress = metricsAddress
    options.tls = tls.files(clientRoots: tlsClientRoots)
    options.segmentBytes = logFiles.segmentBytes ?? options.segmentBytes
    options.simulatorSegmentBytes = logFiles.segmentBytes ?? options.simulatorSegmentBytes
    options.scrubBytesPerSecond = logFiles.scrubRate
    calls.apply(to: &options)
    options.broker = brokerArguments.options
    options.stepsFromBroker = brokerArguments.stepsFrom == .broker
    options.webhooks.allowsPrivate = allowPrivateWebhooks
    options.webhooks.acceptsLoss = newWebhooks
    options.webhooks.timeLimit = .seconds(webhookTimeout)
    options.allowedHosts = hostAndStop.allowedHost
    // validate() has refused what can't be read.
    options.trustedProxies = TrustedProxies(trustedProxy) ?? .init()
    options.isInsecure = insecure
    options.stopLimit = .seconds(hostAndStop.stopTimeout)
    options.limits = limitArguments.limits(isLoopback: options.isLoopback)
    streamArguments.apply(to: &options.limits)
    options.acceptsNewPSP = newPSP
    options.pspURL = pspURL.map(Self.withoutSlash)
    options.pspToken = tokens.pspToken
    options.notificationsURL = notificationsURL.map(Self.withoutSlash)
    options.notificationsToken = tokens.notificationsToken
    options.refusesSimulator = noSimulator
    if noProcessing { options.switchedOff.insert(.processing) }
    if noWebhooks { options.switchedOff.insert(.webhooks) }
    if noWeb { options.switchedOff.insert(.web) }
    return options
  }

  static func withoutSlash(_ url: String) -> String {
    url.hasSuffix("/") ? String(url.dropLast()) : url
  }
}

/// - Throws: ``ValidationError`` when the URL can't be used: that is wrong usage, exit code 64.
func checkURL(_ url: String, of option: String) throws {
  do throws(EndpointError) {
    try BaseURL.check(url)
  } catch {
    throw ValidationError("\(option): \(error)")
  }
}

/// - Throws: ``ValidationError`` for what can't be in a field of HTTP. The message doesn't show the secret.
func checkToken(_ token: String?, of option: String) throws {
  guard let token, !token.utf8.allSatisfy({ (0x21...0x7e).contains($0) }) || token.isEmpty else { return }
  throw ValidationError("\(option) must consist of visible ASCII characters, without spaces")
}
