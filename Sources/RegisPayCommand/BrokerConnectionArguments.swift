import ArgumentParser
import RegisPay

/// Which broker, and as whom: the same for every command that uses one.
struct BrokerConnectionArguments: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "The RabbitMQ broker to use: amqp://user@host:port/vhost, or amqps:// for TLS.",
      discussion: "Name several of a cluster, separated by commas or by repeating the option: they are tried in turn.",
      valueName: "url"))
  var broker: [String] = []

  @Option(
    help: ArgumentHelp(
      "The user's password at the broker; the default is guest.",
      discussion:
        "Other users of the machine can read the command line: name a file with it in REGISPAY_BROKER_PASSWORD_FILE instead.",
      valueName: "password"))
  var brokerPassword: String?

  @Option(
    help: ArgumentHelp("Root certificates that may vouch for a broker with TLS, in PEM.", valueName: "file"))
  var brokerRoots = "/etc/ssl/certs/ca-certificates.crt"

  func validate() throws {
    do throws(BrokerOptionsError) {
      _ = try options()
    } catch {
      throw ValidationError("\(error)")
    }
    guard let brokerPassword else { return }
    guard (1...1_000).contains(brokerPassword.utf8.count), !brokerPassword.utf8.contains(0) else {
      throw ValidationError("--broker-password must be 1 to 1000 bytes without a zero")
    }
  }

  var isGiven: Bool { !broker.isEmpty }

  /// Nil without a broker.
  func options() throws(BrokerOptionsError) -> BrokerOptions? {
    guard isGiven else { return nil }
    var options = try BrokerOptions(broker)
    options.password = brokerPassword ?? options.password
    options.roots = brokerRoots
    return options
  }
}
