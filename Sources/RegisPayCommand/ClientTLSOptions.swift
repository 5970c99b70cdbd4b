import ArgumentParser
import RegisPay

/// How a command speaks TLS with a server.
struct ClientTLSOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Trust a server whose certificate one of these root certificates vouches for, in PEM, instead of the system's roots.",
      valueName: "file"))
  var tlsRoots: String?

  @Option(
    help: ArgumentHelp(
      "Show the server this certificate, and those between it and its root, in PEM; needs --tls-key.", valueName: "file"
    ))
  var tlsCertificate: String?

  @Option(help: ArgumentHelp("The certificate's private key, in PEM, without a passphrase.", valueName: "file"))
  var tlsKey: String?

  func validate() throws {
    guard (tlsCertificate == nil) == (tlsKey == nil) else {
      throw ValidationError("--tls-certificate and --tls-key need each other")
    }
  }

  var clientTLS: ClientTLS {
    var tls = ClientTLS()
    (tls.roots, tls.certificate, tls.key) = (tlsRoots, tlsCertificate, tlsKey)
    return tls
  }
}
