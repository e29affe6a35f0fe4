"""Each kind is found in its dresses, and what only looks like it is left alone."""

from __future__ import annotations

import random
import string
from importlib import import_module
from itertools import pairwise

import pytest

from luthier.pii.accounts import FORMS, is_national_id
from luthier.pii.detect import find_pii
from luthier.pii.span import HIGH_RISK
from tests.linear import assert_linear

HERE = [
    ("email", "write to jo.doe+x@mail.example.co.uk, please", "jo.doe+x@mail.example.co.uk"),
    ("email", "Mail: müller@beispiel.de.", "müller@beispiel.de"),
    ("email", "邮箱是zhang@qq.com吗", "zhang@qq.com"),
    ("phone", "我的手机号是13812345678，请联系", "13812345678"),
    ("phone", "電話番号は090-1234-5678です", "090-1234-5678"),
    ("phone", "전화번호는 010-1234-5678입니다", "010-1234-5678"),
    ("phone", "رقم الهاتف: ٠١٠١٢٣٤٥٦٧٨", "٠١٠١٢٣٤٥٦٧٨"),
    ("phone", "тел. 89123456789", "89123456789"),
    ("phone", "फोन: ९८७६५४३२१०", "९८७६५४३२१०"),
    ("phone", "電話：０９０-１２３４-５６７８", "０９０-１２３４-５６７８"),
    ("card", "卡号是4111111111111111吗", "4111111111111111"),
    ("card", "بطاقة ٤١١١١١١١١١١١١١١١", "٤١١١١١١١١١١١١١١١"),
    ("national_id", "身份证号110101199003077758", "110101199003077758"),
    ("iban", "口座はDE89370400440532013000です", "DE89370400440532013000"),
    ("ip", "地址192.168.10.4不通", "192.168.10.4"),
    ("phone", "call +49 170 1234567 now", "+49 170 1234567"),
    ("phone", "ring 020 7946 0182", "020 7946 0182"),
    ("phone", "(415) 555-0143 is mine", "(415) 555-0143"),
    ("phone", "Percy (07700 900655)", "07700 900655"),
    ("phone", "Telefon: 0301234567", "0301234567"),
    ("card", "card 4111 1111 1111 1111 was charged", "4111 1111 1111 1111"),
    ("card", "amex 378282246310005", "378282246310005"),
    ("iban", "to DE89 3704 0044 0532 0130 00 please", "DE89 3704 0044 0532 0130 00"),
    ("iban", "gb82west12345698765432", "gb82west12345698765432"),
    ("ssn", "ssn 536-22-8726", "536-22-8726"),
    ("ip", "from 192.168.10.4 at night", "192.168.10.4"),
    ("ip", "from 2001:db8::8a2e:370:7334 at night", "2001:db8::8a2e:370:7334"),
    ("mac", "device 00:1B:44:11:3A:B7", "00:1B:44:11:3A:B7"),
    ("secret", "key ghp_" + "a1B2" * 9, "ghp_" + "a1B2" * 9),
    ("secret", "my password is hunter2x!", "hunter2x!"),
    ("url_secret", "postgres://me:pa55@db.example.com/x", "postgres://me:pa55@db.example.com/x"),
    ("url_secret", "https://x.example/a?token=abc123def", "abc123def"),
    ("national_id", "My NI number is AB 12 34 56 C.", "AB 12 34 56 C"),
    ("national_id", "Meine Steuer-ID ist 36 574 261 809", "36 574 261 809"),
    ("national_id", "NIR 2 95 10 99 126 111 93", "2 95 10 99 126 111 93"),
    ("national_id", "DNI 54362315K", "54362315K"),
    ("national_id", "mi NIE: X-2482300W", "X-2482300W"),
    ("national_id", "CF RCCMNL83S18D969H", "RCCMNL83S18D969H"),
    ("national_id", "mijn BSN is 111222333", "111222333"),
    ("national_id", "PESEL 44051401359", "44051401359"),
    ("national_id", "CPF 390.533.447-05", "390.533.447-05"),
    ("national_id", "Aadhaar 2341 2341 2346", "2341 2341 2346"),
    ("national_id", "my social insurance number is 123-456-782", "123-456-782"),
    ("national_id", "TFN 123 456 782", "123 456 782"),
    ("national_id", "personnummer 880320-0016", "880320-0016"),
    ("ssn", "my social security number 536228726", "536228726"),
    ("birth_date", "I was born on March 21, 1987", "March 21, 1987"),
    ("birth_date", "geboren am 3. Mai 1970", "3. Mai 1970"),
    ("birth_date", "12/03/1984 is my birthday", "12/03/1984"),
    ("birth_date", "DOB: 1984-03-12", "1984-03-12"),
    ("address", "send it to 12 High Street, London SW1A 2AA now", "12 High Street, London SW1A 2AA"),
    ("address", "wir wohnen Hauptstraße 12a, 10115 Berlin", "Hauptstraße 12a, 10115 Berlin"),
    (
        "address",
        "wir wohnen Annette-von-Droste-Hülshoff-Straße 7, 48147 Münster",
        "Annette-von-Droste-Hülshoff-Straße 7, 48147 Münster",
    ),
    ("address", "au 12 bis rue de la Paix, 75002 Paris", "12 bis rue de la Paix, 75002 Paris"),
    ("address", "en Calle del Romero Azul 27, 46099 Villalcina", "Calle del Romero Azul 27, 46099 Villalcina"),
    ("address", "Delivery address: 2807 Ravine Flat", "2807 Ravine Flat"),
    ("address", "I live in Studio 27, 9 Copper Point", "Studio 27, 9 Copper Point"),
    ("address", "our house is 12 Heron Gardens, you see", "12 Heron Gardens"),
    ("address", "at 25 Gardenia Road. It is opposite", "25 Gardenia Road"),
    ("address", "send it to PO Box 475, Napier", "PO Box 475, Napier"),
    ("address", "J'habite rue de la Lune.", "rue de la Lune"),
    ("address", "avenue des Cerisiers 36, 1004 Lausanne", "avenue des Cerisiers 36, 1004 Lausanne"),
    ("address", "vive en Rambla Azul 14", "Rambla Azul 14"),
    ("address", "abito in Contrada Bella, 82", "Contrada Bella, 82"),
    ("address", "Largo das Flores, S/N", "Largo das Flores, S/N"),
    ("address", "Kunde, Kikihof 4, hat angerufen", "Kikihof 4"),
    ("address", "mieszkam przy ul. Jasnej 7", "ul. Jasnej 7"),
    ("address", "Furutorget 29", "Furutorget 29"),
    ("address", "pakken til Købmagerstræde 35", "Købmagerstræde 35"),
    ("address", "osoitteeni: Kolvikuja 6", "Kolvikuja 6"),
    ("address", "am Wilhelm-Busch-Ring 4", "Wilhelm-Busch-Ring 4"),
    ("address", "the workshop, R. da Lua, 7, is closed", "R. da Lua, 7"),
    ("address", "she keeps rue de Lune in mind", "rue de Lune"),
    ("address", "Vi bor i Kirkestranda 14B nå", "Kirkestranda 14B"),
    ("address", "we moved to 4/128 Heron Parade", "4/128 Heron Parade"),
    ("address", "leave it at 4/128B Heron Copse", "4/128B Heron Copse"),
    ("address", "Level 3 27 Sydney Wynd", "Level 3 27 Sydney Wynd"),
    ("address", "My house is H.No. 31, Lotus Nagar", "H.No. 31, Lotus Nagar"),
    ("address", "deliver to 14/62, Tagore Marg", "14/62, Tagore Marg"),
    ("address", "vivo en Eje vial Norte Sur 120 405", "Eje vial Norte Sur 120 405"),
    ("address", "she gave 51, Kamal Circle as her residence", "51, Kamal Circle"),
    ("address", "the roof of 3 Holm Grange leaks", "3 Holm Grange"),
    ("address", "the lease concerns 8 Lemon Ring", "8 Lemon Ring"),
    ("address", "our meeting is at Largo das Flores", "Largo das Flores"),
    ("address", "we meet at nine, Lagoa Azul, by the gate", "Lagoa Azul"),
    ("address", "House No. 81, Lotusbazar", "House No. 81, Lotusbazar"),
    ("address", "Delivery address: 329 Kamalan", "329 Kamalan"),
    ("address", "send it to 84/82, Kamal", "84/82, Kamal"),
    ("address", "Usvatie 823, where I live", "Usvatie 823"),
    ("address", "stoi przy pl. Jasnej 7", "pl. Jasnej 7"),
    ("address", "Kolvin Aronen tie 17 is my address", "Kolvin Aronen tie 17"),
    ("phone", "phone (+358) 320773593 / no calls", "(+358) 320773593"),
    ("phone", "986.291.2294x751", "986.291.2294x751"),
    ("phone", "Tel 0.532.123.45.67", "0.532.123.45.67"),
    ("phone", "0.800.123.456 appeler", "0.800.123.456"),
    ("phone", "appelez le 06.71/05.99.05", "06.71/05.99.05"),
    ("phone", "Fax 030/1234.5678", "030/1234.5678"),
    ("phone", "Rückruf 0671 0599 0576", "0671 0599 0576"),
    ("phone", "1-800-555-0143", "1-800-555-0143"),
    ("phone", "lo trovi al 347 123 4567", "347 123 4567"),
    ("phone", "Telefon 22/34 12-345 Anna", "22/34 12-345"),
    ("phone", "ring Bob 415-555 0143 Monday", "415-555 0143"),
    ("phone", '{"phone_number": "5551234567"}', "5551234567"),
    ("phone", "customerPhone=5551234567", "5551234567"),
    ("ssn", '{"social_security_number": "536228726"}', "536228726"),
    ("national_id", '{"taxId": "36574261809"}', "36574261809"),
    ("birth_date", '{"birth_date": "1990-05-15", "current_date": "2022-03-15"}', "1990-05-15"),
    ("birth_date", '{"dateOfBirth": "1990-05-15"}', "1990-05-15"),
    ("secret", "password = 'generate_password(8'", "generate_password(8"),
    ("secret", "password = Hund(2024)", "Hund(2024"),
    ("address", "Send it to 25 Gardenia Blvd. by noon", "25 Gardenia Blvd."),
    ("secret", "AWS AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
    ("secret", "Authorization: Bearer a1b2c3d4e5f6a7b8c9d0", "a1b2c3d4e5f6a7b8c9d0"),
    ("secret", 'api_key = "Zx81kk20Qq93"', "Zx81kk20Qq93"),
    ("secret", "bot 123456789:AA" + "h4" * 16 + "x", "123456789:AA" + "h4" * 16 + "x"),
    ("url_secret", "redis://:s3cret9@cache.example.com/0", "redis://:s3cret9@cache.example.com/0"),
    ("mac", "ether 3c:22:fb:9a:00:1e", "3c:22:fb:9a:00:1e"),
    ("ip", "gateway is fe80::1ff:fe23:4567:890a.", "fe80::1ff:fe23:4567:890a"),
    ("card", "card 6759649826438453", "6759649826438453"),
    ("card", "2 x 4111 1111 1111 1111 12/27 737", "4111 1111 1111 1111"),
    ("card", "7 4111111111111111 737", "4111111111111111"),
]
WHOLE = [
    ("send the SIM to ", "14 Larkspur Mews, Bristol BS1 4QT", ""),
    ("The TV from ", "Flat 3, 14 Larkspur Mews, Bristol BS1 4QT", " is dead"),
    ("Service required at ", "41 The Crescent\nGalway\nH91 A9F9", ": boiler makes a noise."),
    ("Send it to ", "Units 3 to 5 Long Lane, Bristol BS1 4QT", "."),
    ("mieszkam przy ", "ul. Piękna 12/4 00-526 Warszawa", "."),
    ("Sie erreichen uns hier: ", "Kärntner Straße 12/4 1010 Wien", "."),
    ("dopis na ", "Dlouhá 123/4 110 00 Praha", ""),
    ("indirizzo: ", "Via Roma 12/4 00184 Roma", ""),
    ("send it to ", "88 w 34th st, new york 10001", " thx"),
    ("send it to ", "450 maple street", " please"),
    ("send it to ", "Lot 7 Old Coach Road, Yandina QLD 4561", "."),
    ("send it to ", "Flat 402, Sai Residency, Kondapur, Hyderabad 500084", "."),
    ("send it to ", "45/2, 3rd Cross, Indiranagar, Bengaluru - 560038", ""),
    ("send it to ", "H.No. 12-3-45, 2nd Floor, MG Road, Secunderabad 500003", "."),
    ("send it to ", "305-88 Queens Quay W, Toronto ON M5J 0B8", "."),
    ("My address is ", "14 Lower Baggot Street, Dublin 2, D02 XH91", "."),
    ("Wir wohnen ", "Hinter der Kirche 2, 21129 Hamburg", "."),
    ("adresse: ", "lessingstraße 4, 04109 leipzig", "!"),
    ("Das Paket soll in die ", "Mariahilfer Straße 88/2/14, 1070 Wien", "."),
    ("Leveren aan ", "Meir 24 bus 3, 2000 Antwerpen", "."),
    ("Ik woon op de ", "Prinsengracht 263-3, 1016 GV Amsterdam", "."),
    ("J'habite ", "27, allée des Tilleuls, bât. C, 31400 Toulouse", "."),
    ("livraison : ", "lieu-dit Le Moulin, 24510 Sainte-Alvère", ""),
    ("nouvelle adresse ", "8 place du marché 67000 strasbourg", ""),
    ("envíen el paquete a ", "calle san juan 12, 30001 murcia", ""),
    ("Vivo en ", "Calle de Alcalá 200, 5º izquierda, 28028 Madrid", "."),
    ("envíen a ", "Calle 60 #345, Mérida, Yucatán", ""),
    ("indirizzo: ", "V.le Monza 14/B - 20127 Milano", ""),
    ("Moro na ", "Rua Augusta, 45, 2.º Esq., 1100-053 Lisboa", "."),
    ("Endereço ", "Rua das Palmeiras, 320, apto 41, Vila Madalena, São Paulo - SP, 05435-020", "."),
    ("moro em ", "SQS 308, Bloco C, apto 204, Brasília", ""),
    ("Mieszkam przy ", "ul. Długiej 14 m. 5, 31-146 Kraków", "."),
    ("Jag bor på ", "Storgatan 12 B, 114 55 Stockholm", "."),
    ("Pakken skulle til ", "Vesterbrogade 41, 3. tv., 1620 København V", "."),
    ("uusi osoite on ", "Satamakatu 9 B 12", ""),
    ("Bydlím v ", "Dlouhá 12, 110 00 Praha 1", "."),
    ("A címem ", "Kossuth Lajos utca 8, 1053 Budapest", "."),
    ("Locuiesc pe ", "Str. Mihai Eminescu nr. 14, bl. A3, ap. 22, București", "."),
    ("Adresim ", "Atatürk Caddesi No: 25 D: 4, 35220 Konak/İzmir", "."),
    ("write to ", "Hauptstraße 12", ", danke!"),
    ("配送先は", "東京都新宿区歌舞伎町1-2-3", "です"),
    ("我住在", "广东省深圳市南山区科技园南路12号创新大厦5栋302室", "。"),
    ("배송지: ", "경기도 성남시 분당구 판교역로 235", ""),
    ("Живу на ", "ул. Большая Морская, д. 12, кв. 4, Севастополь", "."),
    ("Διεύθυνση: ", "οδός Σταδίου 24, 105 64 Αθήνα", ""),
    ("أسكن في ", "25 شارع طلعت حرب، القاهرة", ""),
    ("אני גר ", "ברחוב אלנבי 40, תל אביב", ""),
    ("Please send it to ", "Perseverancia 209, Havana", ", thanks"),
    ("Best\nJ. Doe\n", "Adama Asnyka 1\n59-700 Bolesławiec", "\nwww.example.com"),
    ("Address: ", "Resslova 343/10, 301 00 Plzeň", ""),
    ("ship to ", "Ģertrūdes iela 81, Riga, LV-1009", ""),
    ("my new address is ", "123 main st apt 456, oakland, ca 94789", " thx"),
    ("I live at ", "Blk 123 Bedok North Rd #05-67 Singapore 460123", " now"),
    ("en ", "Cl. 32 # 97-7", ""),
    ("Deliver to ", "RR 3 Box 99, Vinton, IA 52349", "."),
]
"""An address, and what stands around it and is none of it."""
LOOKALIKES = [
    *("scores of 0.671/0.599/0.576 on the test", "macro F1 0.671 / 0.599 / 0.576", "F1: 0.671-0.599-0.576"),
    *("0.671 0.599 0.576", "(0.671/0.599/0.576)", "Telefonat: 0.671/0.599/0.576", "+0.671/-0.599", "0.1234/0.5678"),
    *("resolution 0.25/0.50/0.75", "weights 0.7/0.2/0.1", "R1/R2/RL = 44.16/21.28/40.90", "0.6710/0.5990"),
    *("won 6-4 7-5 6-3 7-6", "pages 1-2-3-4-5-6-7-8", "won by 21-19, 21-17", "08.15-16.45 Uhr", "ratio 16:9/4:3"),
    *("from 01.02.-03.02.2024", "vom 30.-31.01.2024", "30.11.2024-05.12.2024", "2024-11-30/2024-12-05"),
    *("Python 3.11.4/3.12.1/3.13.0", "Ubuntu 18.04.2/20.04.1/22.04.3", "build 2.10.1-3.4.5", "1.250.000-1.750.000"),
    "2024年12月25日我订了3件，订单号：20241225123456，价格1234567元",
    "版本1.2.3.4更新，编号12345678",
    "電車は10時30分に出発、料金は1,234,567円",
    "전화 회의는 2024년 12월 25일 10시",
    "القيمة ١٬٢٣٤٬٥٦٧ في ٢٠٢٤",
    '{"order_id": "020 7946 0182"}',
    "my iPhone 13 Pro 55512345",
    '{"birthday_gift": "yes", "order_date": "2022-03-15"}',
    "password = generate_password(8)",
    "max(counts.items(), key=operator.itemgetter(1))",
    "var keys = Object.keys(data[0]).slice(1)",
    "// Output: 1 3 7 15 31 63",
    "He would earn 5200 - 80 - 80 * 3 of it",
    "Apollo 13, Houston",
    "Simon Oakley 3-15, Grant Newcombe 3-22, Steve Oakley 3-24",
    "1980 Lake Placid, 1984 Sarajevo, 1988 Calgary",
    "Mario Rossi, 45, Milano",
    "Send 3 Pizza Margherita, 2 Cola",
    "Contract with Siemens 12, Munich",
    "my house is 120 square meters",
    "i need 3 chairs, 2 tables and a lamp for our office",
    "会议在3号楼302室",
    "第3章12ページを参照",
    "3월 12일에 강남구로 3명",
    "Глава 12, страница 5",
    "I live in building B and pay 500 Euro.",
    "Real Estate Advertising 360® is",
    "order 113542617735902",
    "order 00004587345",
    "order number 00123842",
    "version 3.0.12.1 of the app",
    "Firmware of the sensors is 1.0.22.5.",
    "card 4111 1111 1111 1112",
    "DE89 3704 0044 0532 0130 01",
    "on 2024-01-15 10:30 and 01/02/2024",
    "invoice 2024-00123-77",
    "my license number is 425700624",
    "000-12-3456 and 666-12-3456",
    "it costs 1.234.567,89 euros",
    "960-480-120 = 360 dollars are left",
    "That leaves 180 - 20 - 60 - 12 = <<180-20-60-12=88>>88 marbles",
    "each phone costs $3000 / 200 or so",
    "PK 0021 7745 9908 3",
    "@home and me@home and @",
    "12:30:45 until 13:00:00",
    "ratio 10:20:30:40:50:60",
    "the password is wrong",
    "1111 1111 1111 1111",
    "order 123-45-6789",
    "Where is order 588903460982?",
    "36 574 261 parts",
    "my number is 111222333",
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
    "ISBN 978-3-16-148410-0 and 0-306-40615-2",
    "1700000000 and 20240115103000",
    "on March 21, 1987 the company moved",
    "550e8400-e29b-41d4-a716-446655440000",
    "sk-learn and hf_hub and key-value",
    "token: ${API_TOKEN_1}",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "https://example.com/a?page=1234567&sort=asc",
    "13 Reasons Why was on in 2024",
    "12.345.678-4 units",
    "prices rose during 2024 by 3 per cent",
    "bring 200 chairs and, after scoring 14, rest",
    "String 1: abc, Spring 2018",
    "Parkplatz 12 ist frei, der Ausweg 2 nicht",
    "a 2015 Napa Valley Cabernet and 11 Rhode Island Reds",
    "the 1929 Wall Street crash",
    "on Sunday at 8 PM CT",
    "5 Simple Ways to save",
    "I moved to Windows 11 last month",
    "Smith et al. Nature 2019",
    "we take the route No. 10",
    "2 Black Block\n3 Blue Top\n12 Silk Strip",
    "on May 5, Main Street was closed",
    "by 12/25, Main Street shops are full",
    "1/2 Golden Steps, 3/4 Lemon Round",
    "größere Bestellmengen 20 und 30",
    "our man, R. Kelly, 55, sang",
    "Qantas Australia 5 and Thüringen 3",
    "Lot 176: 14K Heavy Link Charm, 172 g.",
    "in 6 hours (23rd, 18:00 Japan time)",
    "In October 2012, Malala was on her way home",
    "Action 5 News is reporting live",
    "16*2=32>>32 Monster Club cards",
    "a pass for 24 Hour Access",
    "a car with 4 Wheel Drive",
    "it runs Windows 11 Home Edge",
    "Chapter 3 Golden Gate",
    "our children: Katie 5, Hattie 7",
    "wir liefern nach 14 Tagen, am 3 Oktober",
    "Vamos ao Lagoa Azul com a Via Sol",
    "January 26, 2019 Historic Winter",
    "Error in line 12, 50000 Rows were lost",
    "Ich wohne seit Mai 3, 2020 Jahre her",
    "In der Version 3, 1500 Nutzer haben sich beschwert",
    "Am Montag 5 Pakete, Im Paket 3 Teile",
    "we drove 3 blocks down the street and 2 miles on the road",
    "vivo en una calle con 3 bares",
    "Order 45/2, Item 7, SKU 560038 arrived late",
    "Sipariş No: 25 D: 4, 35220 Adet",
    "factura nr. 14, bl. A3",
    "Bloco A 12, Bloco B",
    "a square table seats 4, 20000 of them",
]
_WORD = {form.name: form.words.split()[0] for form in FORMS}


@pytest.mark.parametrize(("kind", "text", "found"), HERE)
def test_is_found(kind: str, text: str, found: str) -> None:
    assert [(one.kind, one.text) for one in find_pii(text)] == [(kind, found)]


@pytest.mark.parametrize("text", LOOKALIKES)
def test_lookalikes_are_left_alone(text: str) -> None:
    assert find_pii(text) == []


@pytest.mark.parametrize("form", ["de.idnr", "nl.bsn", "pl.pesel", "br.cpf", "in_.aadhaar", "ca.sin", "au.tfn"])
def test_a_named_number_counts_exactly_when_its_checksum_is_right(form: str) -> None:
    """Against python-stdnum, on numbers drawn at random."""
    draw = random.Random(form)
    length = {"nl.bsn": 9, "ca.sin": 9, "au.tfn": 9, "in_.aadhaar": 12}.get(form, 11)
    module = import_module(f"stdnum.{form}")
    right = 0
    for _ in range(400):
        number = "".join(draw.choices(string.digits, k=length))
        found = {one.text for one in find_pii(f"{_WORD[form]} {number}", ("national_id",)) if one.form == form}
        assert (number in found) == module.is_valid(number) == is_national_id(form, number)
        right += bool(found)
    assert right > 0


def test_a_private_key_is_one_find() -> None:
    text = "see\n-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----\nthanks"
    [found] = find_pii(text)
    assert (found.kind, found.form) == ("secret", "private_key")
    assert text[: found.start] + text[found.end :] == "see\n\nthanks"


@pytest.mark.parametrize(("before", "address", "behind"), WHOLE)
def test_an_address_is_found_as_a_whole(before: str, address: str, behind: str) -> None:
    found = [one.text for one in find_pii(before + address + behind)]
    assert found in ([address], [address + "."])


def test_a_telephone_behind_an_address_leaves_it_its_street() -> None:
    found = find_pii("send it to Hauptstraße 12, 030 1234567")
    assert [(one.kind, one.text) for one in found] == [("address", "Hauptstraße 12"), ("phone", "030 1234567")]


def test_finds_are_in_order_and_apart() -> None:
    text = " ".join(text for _, text, _ in HERE)
    finds = find_pii(text)
    assert all(one.end <= after.start for one, after in pairwise(finds))
    assert all(text[one.start : one.end] == one.text for one in finds)
    assert find_pii(text, HIGH_RISK) == [one for one in find_pii(text, HIGH_RISK) if one.kind in HIGH_RISK]


ADVERSARIAL = [
    *("1 ", "12 ", "1-", "12 A", "A1", "AB12", "1 A ", "1.1", "12.", "12 Aa ", "1 bis rue de ", "Aa 1, "),
    *("password is ", "token=", "://a:", "key: a1", "eyJ", ":AA", "born on 1", "12 March ", "Calle Aa ", "weg 1 "),
    *("::", "a:", "AA-", "SW1A 2AA, ", "Aa, Aa 1, ", "1 Aa Point ", "at 1 Aa Way, "),
    *("rue de Aa ", "Calle de la Aa ", "Via Aa Aa 1 ", "address: Aa 1 ", "Aaweg 1 ", "Flat 1 ", "PO Box 1 ", "S/N "),
    *("Largo de Aa ", "at 1, Aa ", "House No. 1 ", "1/13, Aa ", " as my", "Usvatie 8 ", "Aa tie 1 "),
    *("send to 1 ", "Aa Aa-Aa-Ring 1, "),
    *(
        "Aa 1/1/1, 1000 ",
        "Flat 1, Aa, ",
        "Aaweg 1, Aa, Aa, ",
        "1 aa st ",
        "calle aa 1, 12345 ",
        "# 1, Aa, ",
        "Am Aa 1 ",
    ),
    *(
        "東京都1-",
        "电话是13812345678",
        "٠١٠ ",
        "市南路1号",
        "강남구 로 1",
        "ул. А 1, ",
        "А 1, 12345 А, ",
        "Α 1, 105 64 Α, ",
        "شارع م 1، ",
        "רחוב א 1, ",
    ),
    *("Aa 1, 1000 Oslo, ", "aa 1, oslo ", "live at aa 1, ", "Box 1, Aa 10000 ", "Aa utca 1. ", "Aa Mah. ", "1, Aa Aa "),
    *("Aa # 1-1 ", "Oslo ", "1000 Aa, ", "#1 Aa "),
    *(" No: 1", "A1A 1A1, ", "D02 XH91, ", "Calle 1 # 1", "AA 1, Bloco A ", "Aaweg 1 apt 1"),
    *("+(", "(+1", "123 456 ", "1234 1234 1234 "),
]


@pytest.mark.parametrize("piece", ADVERSARIAL)
def test_time_grows_no_faster_than_the_text(piece: str) -> None:
    """Ten times the text may take about ten times as long; a quadratic search would take a hundred."""
    assert_linear(find_pii, piece, 2000, floor_s=0.0025)
