import Testing

@testable import RegisPay

@Suite("Where a webhook may go")
struct AddressTests {
  @Test(
    "no address of this machine, of a private network or of a special purpose is reached",
    arguments: [
      "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1",
      "127.255.255.255", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1",
      "192.168.0.1", "192.168.255.255", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1",
      "239.255.255.255", "240.0.0.1", "255.255.255.255", "::", "::1", "::2", "::7f00:1", "::ffff:127.0.0.1",
      "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:1::1",
      "2001:1ff::1", "2001:db8::1", "2002:7f00:1::1", "3fff::1", "fc00::1", "fd12:3456::1", "fe80::1", "febf::1",
      "fec0::1", "ff02::1", "4000::1", "e000::1",
    ])
  func refused(_ text: String) throws {
    let address = try #require(IPAddress(literal: text))
    #expect(address.refusal(allowingPrivate: false) != nil)
  }

  @Test(
    "other addresses are reached, those beside the special ones too",
    arguments: [
      "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
      "128.0.0.0",
      "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.255.255", "192.169.0.0",
      "198.17.255.255", "198.20.0.0", "223.255.255.255", "2001:200::1", "2001:db7::1", "2001:db9::1", "2003::1",
      "2606:4700::1111", "2a00:1450::1", "3ffe::1",
    ])
  func allowed(_ text: String) throws {
    let address = try #require(IPAddress(literal: text))
    #expect(address.refusal(allowingPrivate: false) == nil)
    #expect(address.refusal(allowingPrivate: true) == nil)
  }

  @Test(
    "with leave, this machine and private networks are reached",
    arguments: [
      "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "100.100.100.199", "::1", "fd00::1",
      "fd00:ec3::254", "fd00:c1::1",
    ])
  func allowedPrivate(_ text: String) throws {
    #expect(try #require(IPAddress(literal: text)).refusal(allowingPrivate: true) == nil)
  }

  @Test(
    "even with leave nothing is sent to a cloud's metadata, to many or to nobody",
    arguments: [
      "169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255", "fe80::1", "ff02::1", "::", "::ffff:10.0.0.1",
    ])
  func neverAllowed(_ text: String) throws {
    #expect(try #require(IPAddress(literal: text)).refusal(allowingPrivate: true) != nil)
  }

  @Test(
    "no cloud's own services are reached, in no form, and not with leave for private networks either",
    arguments: [
      "169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.0.23", "169.254.42.42", "169.254.169.123",
      "168.63.129.16", "100.100.100.200", "192.0.0.192", "0xa83f8110", "2822734096", "100.100.25800",
      "fd00:ec2::254", "fd00:ec2::23", "fd00:ec2::253", "fd00:ec2:0:1::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe",
      "fd00:42::42", "fd00:a9fe:a9fe::1", "fd00:100::100:200", "fe80::a9fe:a9fe",
      "::ffff:168.63.129.16", "::ffff:100.100.100.200", "::168.63.129.16", "64:ff9b::a83f:8110", "64:ff9b:1::6464:64c8",
      "2002:a83f:8110::1", "2002:6464:64c8::", "2001:0:a83f:8110::1",
      // A network's own translator: /96, /32, /40, /48, /56, /64 of RFC 6052.
      "fd00:64::a9fe:a9fe", "fd00:64::6464:64c8", "2a01:1234::a83f:8110", "fd00:6464:a9fe:a9fe::",
      "fd00:6464:64a9:fea9:fe::", "fd00:6464:6464:a9fe:a9:fe00::", "fd00:6464:6464:64a9:fe:a9fe::",
      "fd00:6464:6464:6464:a9:fea9:fe00:0", "fd12::5efe:169.254.169.254",
    ])
  func clouds(_ text: String) throws {
    let address = try #require(IPAddress(literal: text))
    #expect(address.refusal(allowingPrivate: true) != nil)
    #expect(address.refusal(allowingPrivate: false) != nil)
  }

  @Test("a name that leads to a cloud's own services is not gone to, with whatever else it leads to")
  func names() async throws {
    var options = WebhookOptions()
    options.allowsPrivate = true
    for address in ["168.63.129.16", "fd00:ec2::254", "100.100.100.200"] {
      let found = try ["127.0.0.1", address].map { try #require(IPAddress(literal: $0)) }
      options.resolver = HostResolver { _, _ in found }
      let sender = WebhookSender(options: options)
      let signature = WebhookSignature(id: "a", timestamp: 1, body: [], secrets: [.random()])
      let result = await sender.send([], to: try WebhookURL("http://example.org:1025/"), signature: signature)
      await sender.close()
      guard case .failed(let reason) = result else {
        Issue.record("there was a response")
        continue
      }
      #expect(reason.contains("\(found[1])") && reason.contains("cloud"), "\(reason)")
    }
  }

  @Test(
    "every form of a number that the resolver takes for an address is seen for what it is",
    arguments: [
      "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "0x7F.0.0.0x1",
      "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "LOCALHOST", "localhost.", "a.localhost",
      "0", "0x0", "[::]",
    ])
  func oddForms(_ host: String) throws {
    for url in ["https://\(host)/", "https://\(host):8443/hook"] {
      #expect(try WebhookURL(url).refusal(allowingPrivate: false) != nil, "\(url)")
    }
  }

  @Test(
    "a URL is rebuilt from its parsed parts",
    arguments: [
      ("https://Example.ORG", "https://example.org/"),
      ("HTTPS://example.org:443/a?b=c&d=%20", "https://example.org/a?b=c&d=%20"),
      ("https://example.org:8443?x", "https://example.org:8443/?x"), ("https://8.8.2056/a", "https://8.8.8.8/a"),
      ("https://[2606:4700:0:0:0:0:0:1111]:8443/", "https://[2606:4700::1111]:8443/"),
      ("http://example.org:80/", "http://example.org/"),
      ("https://xn--bcher-kva.example./a/../b", "https://xn--bcher-kva.example./a/../b"),
    ])
  func canonical(_ text: String, _ expected: String) throws {
    #expect(try WebhookURL(text).text == expected)
    #expect(try WebhookURL(expected).text == expected)
  }

  @Test(
    "a URL that two programs could read differently is none",
    arguments: [
      "", "example.org", "ftp://example.org/", "https://", "https:///a", "https://user@example.org/",
      "https://user:password@example.org/", "https://example.org@10.0.0.1/", "https://example.org\\@10.0.0.1/",
      "https://example.org/#a", "https://example.org#@10.0.0.1/", "https://example.org:0/",
      "https://example.org:65536/",
      "https://example.org:/", "https://example.org:+1/", "https://example.org:443:443/", "https://exa mple.org/",
      "https://exämple.org/", "https://example.org/ä", "https://example.org/a b", "https://example.org/\r\nHost: a",
      "https://example.org/%", "https://example.org/%2", "https://example.org/%zz", "https://%31%30.0.0.1/",
      "https://example..org/", "https://.example.org/", "https://[::1/", "https://[::1%25eth0]/",
      "https://[127.0.0.1]/",
      "https://[::1]a/", "https://127.0.0.1。/", "javascript:alert(1)", " https://example.org/",
      "https://example.org/\u{0}",
      "https://" + String(repeating: "a", count: 2_048),
    ])
  func malformed(_ text: String) {
    #expect(throws: WebhookURL.Refusal.self) { try WebhookURL(text) }
  }

  @Test("without leave only https, and only ports that are no other protocol's")
  func schemesAndPorts() throws {
    #expect(try WebhookURL("http://example.org/").refusal(allowingPrivate: false) != nil)
    #expect(try WebhookURL("http://example.org/").refusal(allowingPrivate: true) == nil)
    #expect(try WebhookURL("https://example.org/").refusal(allowingPrivate: false) == nil)
    for port in [22, 25, 53, 110, 143, 465, 587, 993, 1_023] {
      #expect(try WebhookURL("https://example.org:\(port)/").refusal(allowingPrivate: true) != nil)
    }
    for port in [80, 443, 1_024, 8_443, 65_535] {
      #expect(try WebhookURL("https://example.org:\(port)/").refusal(allowingPrivate: false) == nil)
    }
  }

  @Test("why a URL is refused never shows the URL")
  func noEcho() {
    let secret = "token=verysecret"
    for url in [
      "http://10.0.0.1/?\(secret)", "https://u@example.org/?\(secret)", "https://example.org/?\(secret)#",
      "x?\(secret)",
    ] {
      do {
        let refusal = try WebhookURL(url).refusal(allowingPrivate: false)
        #expect(refusal?.description.contains("verysecret") == false)
      } catch {
        #expect(!"\(error)".contains("verysecret"))
      }
    }
  }
}
