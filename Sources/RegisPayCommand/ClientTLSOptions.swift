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

  /// - Throws: ``ValidationError`` when an option of TLS would be ignored, because the URL has none.
  func checkFit(_ url: String) throws {
    guard url.hasPrefix("http://") else { return }
    for (option, value) in [("--tls-roots", tlsRoots), ("--tls-certificate", tlsCertificate)] where value != nil {
      throw ValidationError(
        "\(option) needs a --url that begins with https://: a connection to \(BaseURL.shown(url)) has no TLS")
    }
  }

  /// Ends the process with one line if a file can't be used.
  func checkFiles() {
    do throws(TLSFilesError) {
      try clientTLS.check()
    } catch {
      fail("\(error)")
    }
  }

  var clientTLS: ClientTLS {
    var tls = ClientTLS()
    (tls.roots, tls.certificate, tls.key) = (tlsRoots, tlsCertificate, tlsKey)
    return tls
  }
}
