/// Whether the settings can be used, alone and together, and whether they fit where the server listens.
struct ConfigurationCheck: Check {
  let name = CheckName.configuration
  let options: ServerOptions
  let mistakes: [String]
  let sources: String

  func run() -> [Finding] {
    var findings = mistakes.map { mistake in
      Finding.problem(
        name, mistake,
        advice: "Correct it: until then the server does not start. regispay serve --print-config shows the settings.")
    }
    do throws(ServerError) {
      try Server.checkSimulator(options)
      try Server.checkMetrics(options)
    } catch {
      findings.append(
        .problem(name, "\(error)", advice: "Change these settings: until then the server does not start."))
    }
    return findings.isEmpty ? [.ok(name, "no mistake in \(sources)")] : findings
  }
}

/// Whether the certificate and its key can be used, and for how long.
struct CertificateCheck: Check {
  let name = CheckName.tls
  let files: TLSFiles?

  func run() -> [Finding] {
    guard let files else { return [.ok(name, "the server speaks plain HTTP: no --tls-certificate")] }
    do throws(TLSFilesError) {
      return [Self.judge(try ServerTLS(files), files)]
    } catch {
      return [
        .problem(
          name, "\(error)",
          advice: "Name a certificate and its key in PEM that this user can read: the server does not start.")
      ]
    }
  }

  private static func judge(_ tls: ServerTLS, _ files: TLSFiles) -> Finding {
    let end = tls.end.formatted(.iso8601)
    guard tls.hasEnded || !tls.warnings.isEmpty else {
      return .ok(.tls, "\(files.certificate) and \(files.key) fit, and the certificate ends at \(end)")
    }
    let advice = "Put a new certificate there; the server reads it within five seconds, without a restart."
    return tls.hasEnded
      ? .problem(.tls, "the certificate \(files.certificate) has ended at \(end): clients refuse it", advice: advice)
      : .warning(.tls, "the certificate \(files.certificate) ends at \(end), in less than 14 days", advice: advice)
  }
}
